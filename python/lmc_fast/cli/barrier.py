"""``lmc-fast barrier A B``: evaluate the straight line between two checkpoints."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from lmc_fast.barrier import barrier
from lmc_fast.cli import common
from lmc_fast.files import replacing
from lmc_fast.matching import Matching

KINDS = ("chord", "mean", "max", "midpoint")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("barrier", help="measure the barrier between two checkpoints")
    parser.add_argument("a", type=Path, help="checkpoint of A")
    parser.add_argument("b", type=Path, help="checkpoint of B")
    common.add_model_arguments(parser, required=True)
    common.add_data_arguments(parser, required=True, split="test")
    parser.add_argument("--permutation", type=Path, help="file written by lmc-fast match")
    parser.add_argument("--alphas", type=int, default=25, help="points on the line (25)")
    parser.add_argument("--loss", default="cross_entropy")
    parser.add_argument("--norm", choices=("keep", "reset", "repair"))
    common.add_output_arguments(parser, required=False, what="JSON file for the whole curve")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate; the curve and its barriers go to stdout as JSON."""
    inputs = [args.a, args.b, *([args.permutation] if args.permutation else [])]
    common.refuse_overwriting(args, *inputs)
    data = common.read_data(args)
    if data is None:
        raise ValueError("barrier: expected --data")
    curve = barrier(
        common.load_into(args, args.a),
        common.load_into(args, args.b),
        data,
        permutation=Matching.load(args.permutation) if args.permutation else None,
        alphas=args.alphas,
        loss=args.loss,
        norm=args.norm,
        progress=common.show_progress(),
    )
    content = {
        "curve": json.loads(curve.to_json()),
        "loss_barrier": {kind: curve.loss_barrier(kind) for kind in KINDS},
        "error_barrier": None
        if curve.error is None
        else {kind: curve.error_barrier(kind) for kind in KINDS},
    }
    if args.out is not None:
        with replacing(args.out) as temporary:
            temporary.write_text(json.dumps(content, indent=1))
    common.print_json(content)
    return 0
