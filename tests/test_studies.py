import ast
import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import lmc_fast.studies as studies_package
import pytest
import torch
from lmc_fast import barrier, match
from lmc_fast.cli import main
from lmc_fast.datasets import Dataset
from lmc_fast.nets import VGG16, resnet20
from lmc_fast.studies import (
    Check,
    Context,
    Result,
    Row,
    Study,
    run_study,
    runs,
    studies,
    summary,
    table,
)
from lmc_fast.training import evaluate, train
from matplotlib.figure import Figure

NAMES = [
    "moons-zoo",
    "moons-naive",
    "moons-reduce",
    "moons-robust",
    "clusters",
    "mnist-zoo",
    "cifar-mlp",
    "swa",
    "regions",
    "teacher-student",
    "lr-sparsity",
    "width-mnist",
    "trajectory",
    "imp",
    "three-networks",
    "matchers",
    "depth-repair",
    "many",
]
DRAWING = {"bar", "barh", "contour", "contourf", "errorbar", "fill_between", "hist", "imshow"}
DRAWING |= {"axhline", "axvline", "pcolormesh", "plot", "scatter", "step", "text"}
WITHOUT_FILES = [name for name in NAMES if studies()[name].data is None]
IN_DEFAULT_RUN = ("moons-reduce", "clusters", "regions", "teacher-student")


@pytest.fixture(autouse=True)
def _one_thread():
    """Networks this small are slowed down, not sped up, by threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def data_dir() -> Path:
    places = [Path(os.environ.get("LMC_FAST_DATA") or "../shared/data")]
    for place in places:
        if (place / "MNIST" / "raw").is_dir():
            return place
    pytest.skip("no MNIST files in LMC_FAST_DATA or ../shared/data")


def test_every_study_is_listed_on_one_line(capsys):
    assert main(["study", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0].split(" [")[0] for line in lines] == NAMES


def test_studies_use_public_calls_and_draw_with_the_librarys_plots():
    for path in Path(studies_package.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("lmc_fast"):
                names = [*str(node.module).split("."), *(alias.name for alias in node.names)]
                own = str(node.module).startswith("lmc_fast.studies")
                assert own or not any(name.startswith("_") for name in names), f"{path}: {names}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                assert node.func.attr not in DRAWING, f"{path}:{node.lineno}: {node.func.attr}"


@pytest.mark.parametrize("name", IN_DEFAULT_RUN)
def test_quick_studies_write_a_table_a_record_and_a_figure(name: str, tmp_path: Path, capsys):
    assert main(["study", name, "--quick", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    record = json.loads((tmp_path / f"{name}.json").read_text())
    assert table(record) in shown
    assert record["command"] == f"lmc-fast study {name} --seed 0 --quick"
    assert record["rows"]
    assert all(row["ours"] == row["ours"] for row in record["rows"])
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in WITHOUT_FILES if n not in IN_DEFAULT_RUN])
def test_other_quick_studies_without_files(name: str, tmp_path: Path):
    assert main(["study", name, "--quick", "--out", str(tmp_path)]) == 0


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("name", [n for n in NAMES if n not in WITHOUT_FILES])
def test_quick_studies_on_files(name: str, tmp_path: Path):
    folder = data_dir()
    assert main(["study", name, "--quick", "--data-dir", str(folder), "--out", str(tmp_path)]) == 0


def toy(measure) -> Study:
    def run(context: Context) -> Result:
        value = context.part("value", 1, measure)
        checks = [Check("value is 3", value == 3, f"{value}")]
        return Result([Row("value", value, 2.0, 0.1)], checks, {}, {}, Figure())

    return Study("toy", "A claim", "A source", run)


def test_a_study_goes_on_from_its_finished_parts(tmp_path: Path):
    calls = []

    def measure() -> float:
        calls.append(1)
        return 3.0

    study = toy(measure)
    for _ in range(2):
        context = Context("toy", "quick", 0, tmp_path)
        record = run_study(study, context, command="toy")
    assert len(calls) == 1
    assert record["rows"][0]["difference"] == 1.0
    other_seed = Context("toy", "quick", 1, tmp_path)
    run_study(study, other_seed, command="toy")
    assert len(calls) == 2


def test_an_interrupted_study_goes_on_where_it_was(tmp_path: Path, capsys):
    """The second of three parts is interrupted: only it and the third are made the second time."""
    made = []

    def run(context: Context) -> Result:
        def measure(key: str) -> float:
            made.append(key)
            if made == ["first", "second"]:
                raise KeyboardInterrupt
            return 1.0

        values = [
            context.part(key, 1, partial(measure, key)) for key in ("first", "second", "third")
        ]
        return Result([Row("sum", sum(values))], [], {}, {}, Figure())

    study = Study("toy", "A claim", "A source", run)
    context = Context("toy", "quick", 0, tmp_path, progress=True)
    with pytest.raises(KeyboardInterrupt):
        run_study(study, context, command="toy")
    assert [path.name.split("-")[0] for path in tmp_path.rglob("*.*")] == ["first"]
    assert run_study(study, context, command="toy")["rows"][0]["ours"] == 3.0
    assert made == ["first", "second", "second", "third"]
    assert capsys.readouterr().err.splitlines() == [
        "toy: first: done in 0 s",
        "toy: first: read back",
        "toy: second: done in 0 s",
        "toy: third: done in 0 s",
    ]


def test_a_broken_part_is_named(tmp_path: Path):
    context = Context("toy", "quick", 0, tmp_path)
    run_study(toy(lambda: 3.0), context, command="toy")
    (part,) = tmp_path.rglob("*.pt")
    part.write_bytes(part.read_bytes()[:40])
    with pytest.raises(ValueError, match="delete that file"):
        run_study(toy(lambda: 3.0), context, command="toy")


def test_a_stored_result_is_not_overwritten(tmp_path: Path, capsys):
    (tmp_path / "regions.json").write_text("{}")
    assert main(["study", "regions", "--quick", "--out", str(tmp_path)]) == 1
    assert "--force" in capsys.readouterr().err
    assert (tmp_path / "regions.json").read_text() == "{}"


def test_bad_requests_are_one_line(tmp_path: Path, capsys):
    for arguments, message in (
        (["nonsense"], "expected one of moons-zoo"),
        ([], "got no name"),
        (["imp", "--quick", "--out", str(tmp_path)], "--data-dir"),
        (["--summary", str(tmp_path)], "found none"),
    ):
        assert main(["study", *arguments]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) == 1


def test_summary_is_generated_from_the_records(tmp_path: Path):
    study = studies()["regions"]
    record = run_study(
        Study(study.name, study.claim, study.source, toy(lambda: 3.0).run),
        Context("regions", "quick", 0, tmp_path),
        command="lmc-fast study regions",
    )
    page = summary(tmp_path)
    assert table(record) in page
    assert "1 of 1" in page
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(ValueError, match=r"other\.json"):
        summary(tmp_path)


def test_scales_choose_their_settings(tmp_path: Path):
    choice = {"quick": 1, "default": 2}
    assert Context("x", "quick", 0, tmp_path).choose(**choice) == 1
    assert Context("x", "full", 0, tmp_path).choose(**choice) == 2
    assert Context("x", "full", 0, tmp_path).choose(**choice, full=3) == 3


def test_a_study_is_decided_by_its_seed(tmp_path: Path):
    records = []
    for seed, folder in ((0, "a"), (0, "b"), (1, "c")):
        context = Context("regions", "quick", seed, tmp_path / folder)
        records.append(run_study(studies()["regions"], context, command="x")["rows"])
    assert records[0] == records[1] != records[2]
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.slow
@pytest.mark.parametrize("make", [VGG16, resnet20])
def test_full_scale_networks_start_with_the_published_recipe(make, tmp_path: Path, monkeypatch):
    """One epoch of the recipe on a few random images: train, derive the spec, match, evaluate."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(64, 3, 32, 32, generator=g), torch.arange(64) % 10
    images = Dataset(x, y, x[:20], y[:20], "random images", 10)
    monkeypatch.setattr(Context, "cifar10", lambda self, **_: images)
    _, _, data, recipe = runs.setting(Context("trajectory", "full", 0, tmp_path))
    net = make(64, norm="layernorm")
    a, b = (train(net, data, replace(recipe, epochs=1), seed=seed) for seed in (0, 1))
    matching = match(a, b, example_inputs=x[:2])
    torch.testing.assert_close(matching.apply(b)(x[:4]), b(x[:4]), rtol=1e-3, atol=1e-4)
    curve = barrier(a, b, (x, y), permutation=matching, alphas=3)
    assert curve.loss[2] == pytest.approx(evaluate(b, x, y)[0], rel=1e-3)


def test_the_page_of_studies_is_generated_from_the_stored_runs(monkeypatch):
    root = Path(__file__).parent.parent
    if not (root / "bench" / "results" / "studies").is_dir():
        pytest.skip("no stored runs beside the tests")
    monkeypatch.chdir(root)
    page = (root / "docs" / "studies.md").read_text(encoding="utf-8")
    assert page == summary(Path("bench/results/studies"))
