"""What several subcommands share: models, data, output files."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lmc_fast._torchvision import import_torchvision
from lmc_fast.checkpoints import load_state_dict
from lmc_fast.datasets import load_dataset
from lmc_fast.spec import PermutationSpec

DATASETS = ("digits", "moons", "mnist", "cifar10")


def add_model_arguments(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Add --model, --model-args, --input-shape and --spec."""
    parser.add_argument(
        "--model",
        required=required,
        metavar="MODULE:FACTORY",
        help="what builds the architecture: package.module:factory or torchvision:name",
    )
    parser.add_argument(
        "--model-args",
        default="{}",
        metavar="JSON",
        help="keyword arguments of the factory, as JSON: '{\"sizes\": [784, 512, 10]}'",
    )
    parser.add_argument(
        "--input-shape",
        metavar="N,C,...",
        help="shape of example inputs for tracing; guessed from the first layer or taken from the "
        "data where left out",
    )
    parser.add_argument(
        "--spec", type=Path, metavar="FILE", help="a hand-written permutation spec to use instead"
    )


def add_data_arguments(parser: argparse.ArgumentParser, *, required: bool, split: str) -> None:
    """Add --data, --data-dir, --split and --limit."""
    parser.add_argument(
        "--data",
        required=required,
        metavar="NAME|FILE",
        help=f"{', '.join(DATASETS)}, or a safetensors file with tensors 'inputs' and 'targets'",
    )
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="where mnist and cifar10 lie")
    parser.add_argument("--split", choices=("train", "test"), default=split)
    parser.add_argument("--limit", type=int, metavar="N", help="use the first N examples only")


def add_output_arguments(parser: argparse.ArgumentParser, *, required: bool, what: str) -> None:
    """Add --out and --force."""
    parser.add_argument("--out", type=Path, required=required, metavar="FILE", help=what)
    parser.add_argument("--force", action="store_true", help="overwrite existing files")


def build_model(args: argparse.Namespace) -> nn.Module:
    """Call the factory that --model names."""
    module_name, colon, name = args.model.partition(":")
    if not colon or not name:
        raise ValueError(
            f"--model: expected package.module:factory or torchvision:name, got {args.model!r}"
        )
    try:
        keywords = json.loads(args.model_args)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"--model-args: expected JSON, got {args.model_args!r} ({error})"
        ) from error
    if not isinstance(keywords, dict):
        raise ValueError(f"--model-args: expected a JSON object, got {args.model_args!r}")
    if module_name == "torchvision":
        models = import_torchvision().models
        return models.get_model(name, **{"weights": None, **keywords})  # type: ignore[no-any-return]
    if "" not in sys.path:
        sys.path.insert(0, "")
    module = importlib.import_module(module_name)
    if not hasattr(module, name):
        raise ValueError(f"--model: {module_name} has no {name!r}")
    model = getattr(module, name)(**keywords)
    if not isinstance(model, nn.Module):
        raise TypeError(f"--model: expected a factory of a Module, got {type(model).__name__}")
    return model


def load_into(args: argparse.Namespace, path: Path) -> nn.Module:
    """Build the model and load a checkpoint into it; every name and shape must fit."""
    model = build_model(args)
    try:
        model.load_state_dict(load_state_dict(path), strict=True)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]]
        raise ValueError(
            f"{path}: expected a checkpoint of {args.model}: {'; '.join(lines)}"
        ) from error
    return model.eval()


def read_spec(
    args: argparse.Namespace, model: nn.Module | dict[str, Tensor]
) -> PermutationSpec | None:
    """Read --spec, JSON or notation; None where it was not given."""
    if args.spec is None:
        return None
    text = args.spec.read_text()
    if text.lstrip().startswith("{"):
        return PermutationSpec.from_json(text)
    return PermutationSpec.parse(text, like=model)


def example_inputs(args: argparse.Namespace) -> Tensor | None:
    """Return random inputs of --input-shape; None where it was not given."""
    if args.input_shape is None:
        return None
    try:
        shape = [int(n) for n in args.input_shape.split(",")]
    except ValueError as error:
        raise ValueError(
            f"--input-shape: expected integers as in 2,3,32,32, got {args.input_shape!r}"
        ) from error
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def read_data(args: argparse.Namespace) -> tuple[Tensor, Tensor] | None:
    """Return (inputs, targets) of --data; None where it was not given."""
    if args.data is None:
        return None
    if args.data in DATASETS:
        data = load_dataset(args.data, args.data_dir)
        x, y = (data.train_x, data.train_y) if args.split == "train" else (data.test_x, data.test_y)
    else:
        tensors = load_state_dict(args.data)
        if not {"inputs", "targets"} <= set(tensors):
            raise ValueError(
                f"--data: expected tensors 'inputs' and 'targets' in {args.data}, got "
                f"{sorted(tensors)[:5]}"
            )
        x, y = tensors["inputs"], tensors["targets"]
    if args.limit is not None and args.limit < 1:
        raise ValueError(f"--limit: expected at least 1, got {args.limit}")
    return x[: args.limit], y[: args.limit]


def refuse_overwriting(args: argparse.Namespace, *inputs: Path) -> None:
    """Raise before any work is done if --out exists without --force, or is one of the inputs."""
    if args.out is None:
        return
    if any(path.exists() and args.out.exists() and path.samefile(args.out) for path in inputs):
        raise ValueError(f"--out: expected another file than the input, got {args.out}")
    if args.out.exists() and not args.force:
        raise FileExistsError(f"{args.out} exists: give --force to overwrite it")
    if not args.out.parent.is_dir():
        raise FileNotFoundError(f"--out: expected an existing folder, got {args.out.parent}")


def show_progress() -> bool:
    """Tell whether progress bars make sense: only where stderr is a terminal."""
    return sys.stderr.isatty()


def print_json(content: dict[str, Any]) -> None:
    """Write one JSON object to stdout."""
    print(json.dumps(content))
