"""``lmc-fast verify``: derive or read the spec of a model and prove it on the model."""

from __future__ import annotations

import argparse
import sys

import torch

from lmc_fast.cli import common
from lmc_fast.spec import PermutationSpec
from lmc_fast.symmetry import example_inputs_for, prove_spec


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("verify", help="print a model's permutation spec and its proof")
    common.add_model_arguments(parser, required=True)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the table with its pins and the proof to stderr, the verdict to stdout as JSON.

    The exit status is 1 if the proof fails.
    """
    model = common.build_model(args).eval()
    inputs = common.example_inputs(args)
    if inputs is None:
        inputs = example_inputs_for(model)
    spec = common.read_spec(args, model) or PermutationSpec.from_model(model, inputs)
    spec.check(model)
    # A derived spec was proven with one permutation already: this is another one.
    proof = prove_spec(spec, model, inputs, generator=torch.Generator().manual_seed(1))
    print(spec, file=sys.stderr)
    print(f"# proof: {proof}", file=sys.stderr)
    if not spec.pinned:
        print("# nothing is pinned", file=sys.stderr)
    common.print_json(
        {
            "passed": proof.passed,
            "change": proof.change,
            "tolerance": proof.tolerance,
            "failed": list(proof.failed),
            "groups": dict(spec.groups),
            "parents": dict(spec.parents),
            "pinned": [vars(pin) for pin in spec.pinned],
        }
    )
    return 0 if proof.passed else 1
