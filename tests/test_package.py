import ast
import contextlib
import doctest
import importlib
import io
import pkgutil
import re
from pathlib import Path

import lmc_fast
import pytest

PACKAGE = Path(lmc_fast.__file__).parent
ROOT = Path(__file__).parent.parent

LAYERS = [
    {
        "errors",
        "files",
        "_torchvision",
        "tensors",
        "_core",
        "charts",
        "progress",
        "reduction",
        "teacher_student",
    },
    {
        "notation",
        "canonical",
        "shapes",
        "_cost",
        "_cuda",
        "_problem",
        "data",
        "_data_files",
        "recipe",
        "checkpoints",
    },
    {"spec", "assignment", "statistics", "datasets", "nets"},
    {"gather", "permutation", "symmetry", "training"},
    {"barrier", "matching", "pruning"},
    {"plots"},
    {"report", "report_sources", "demo", "studies", "zoo"},
    {"cli"},
]
"""Lowest first. A module may import from its own layer and from those before it."""


def module_names():
    return [m.name for m in pkgutil.walk_packages([str(PACKAGE)], "lmc_fast.")]


def layer_of(name):
    top = name.split(".")[1]
    found = [i for i, layer in enumerate(LAYERS) if top in layer]
    assert found, f"{name}: expected every module in one of the layers of this test"
    return found[0]


def imported_at_module_level(path):
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def dotted_name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def test_dependencies_point_one_way():
    wrong = [
        f"{name} imports {target}"
        for path, name in ((p, dotted_name(p)) for p in PACKAGE.rglob("*.py"))
        if name != "lmc_fast"
        for target in imported_at_module_level(path)
        if target.startswith("lmc_fast.") and layer_of(target) > layer_of(name)
    ]
    assert not wrong


def test_public_names_exist_and_are_documented():
    for name in lmc_fast.__all__:
        value = getattr(lmc_fast, name)
        assert value.__doc__, name


@pytest.mark.parametrize("name", module_names())
def test_docstring_examples_run(name):
    if name.endswith("__main__") or name.endswith("_core"):
        pytest.skip("no Python module to import")
    module = importlib.import_module(name)
    failed, _ = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert failed == 0


def test_readme_examples_print_what_the_readme_shows():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.findall(r"```python\n(.*?)```\n+(?:Output:\n+)?```text\n(.*?)```", text, re.S)
    assert found
    for code, expected in found:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, {})
        pairs = zip(printed.getvalue().split(), expected.split(), strict=True)
        for ours, shown in pairs:
            if shown[0].isdigit():  # rounding differs between processors, training amplifies it
                ours, shown = (float(v.rstrip("%")) for v in (ours, shown))
                assert ours == pytest.approx(shown, rel=0.5, abs=1.0 if "%" in expected else 0.05)
            else:
                assert ours == shown
