"""``lmc-fast apply``: write the aligned copy of a checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path

from lmc_fast.checkpoints import load_state_dict, save_state_dict
from lmc_fast.cli import common
from lmc_fast.matching import Matching


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("apply", help="permute a checkpoint by a saved matching")
    parser.add_argument("permutation", type=Path, help="file written by lmc-fast match")
    parser.add_argument("checkpoint", type=Path, help="checkpoint of B")
    common.add_output_arguments(
        parser, required=True, what="aligned checkpoint (.safetensors, or a torch file)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Permute and save."""
    common.refuse_overwriting(args, args.permutation, args.checkpoint)
    aligned = Matching.load(args.permutation).apply(load_state_dict(args.checkpoint))
    save_state_dict(aligned, args.out)
    common.print_json({"checkpoint": str(args.out), "tensors": len(aligned)})
    return 0
