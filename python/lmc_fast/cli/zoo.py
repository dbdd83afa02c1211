"""``lmc-fast zoo DIR``: barriers of all pairs of a folder of checkpoints."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from torch import nn

from lmc_fast.barrier import BarrierCurve
from lmc_fast.barrier.networks import Networks
from lmc_fast.barrier.segment import alpha_grid, curves_between
from lmc_fast.cli import common
from lmc_fast.matching import Matching, match
from lmc_fast.zoo import Pair, Shard, checkpoints_of, read_zoo, run_zoo


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("zoo", help="measure all pairs of a folder of checkpoints")
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of checkpoints")
    common.add_model_arguments(parser, required=True)
    common.add_data_arguments(parser, required=True, split="test")
    parser.add_argument(
        "--align",
        choices=("none", "weights", "activations"),
        default="none",
        help="match the second network of each pair to the first (none)",
    )
    parser.add_argument("--alphas", type=int, default=11, help="points on each line (11)")
    parser.add_argument("--loss", default="cross_entropy")
    parser.add_argument("--norm", choices=("keep", "reset", "repair"))
    parser.add_argument("--shard", metavar="i/N", help="take every N-th pair only")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of the result files; pairs that are there already are left as they are",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate the pairs that are missing; a summary of the folder goes to stdout as JSON."""
    shard = Shard.parse(args.shard) if args.shard else None
    paths = checkpoints_of(args.folder)
    data = common.read_data(args)
    if data is None:
        raise ValueError("zoo: expected --data")
    model = common.load_into(args, paths[0])
    spec = common.read_spec(args, model)
    example = common.example_inputs(args)

    def aligned(a: nn.Module, b: nn.Module) -> Matching | None:
        if args.align == "none":
            return None
        return match(
            a,
            b,
            method=args.align,
            data=data[0] if args.align == "activations" else None,
            spec=spec,
            example_inputs=data[0][:2] if example is None else example,
        )

    def evaluate_pairs(pairs: Sequence[Pair]) -> list[BarrierCurve]:
        nets = {path: common.load_into(args, path) for path in dict.fromkeys(chain(*pairs))}
        order = list(nets)
        moves = [aligned(nets[a], nets[b]) for a, b in pairs]
        networks = Networks.gather(
            [*nets.values(), *(nets[b] for _, b in pairs)],
            [*[None] * len(nets), *moves],
            labels=[str(path) for path in (*order, *(b for _, b in pairs))],
            norm=args.norm,
        )
        ends = [(order.index(a), len(order) + k) for k, (a, _) in enumerate(pairs)]
        return curves_between(networks, ends, alpha_grid(args.alphas), data, loss=args.loss)

    settings = {
        name: getattr(args, name)
        for name in ("model", "model_args", "data", "split", "limit", "align", "alphas", "loss")
    } | {"norm": args.norm or "keep"}
    written = sum(
        1 for _ in run_zoo(paths, evaluate_pairs, args.out, settings=settings, shard=shard)
    )
    matrix = read_zoo(args.out)
    heights = matrix.loss_barrier()[np.triu_indices(len(matrix.names), 1)]
    done = heights[~np.isnan(heights)]
    common.print_json(
        {
            "out": str(args.out),
            "written": written,
            "pairs": int(done.size),
            "median_loss_barrier": float(np.median(done)) if done.size else None,
        }
    )
    return 0
