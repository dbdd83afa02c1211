"""``lmc-fast match A B``: find the permutation that aligns checkpoint B to checkpoint A."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from lmc_fast.checkpoints import load_state_dict
from lmc_fast.cli import common
from lmc_fast.matching import match


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("match", help="align checkpoint B to checkpoint A")
    parser.add_argument("a", type=Path, help="checkpoint of A, which stays")
    parser.add_argument("b", type=Path, help="checkpoint of B, which is to be moved")
    common.add_model_arguments(parser, required=False)
    common.add_data_arguments(parser, required=False, split="train")
    parser.add_argument("--method", choices=("weights", "activations"))
    parser.add_argument("--metric")
    parser.add_argument("--restarts", type=int, default=1)
    parser.add_argument("--max-sweeps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    common.add_output_arguments(
        parser, required=True, what="safetensors file for the permutation and its statistics"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Match and save; the summary goes to stdout as JSON."""
    common.refuse_overwriting(args, args.a, args.b)
    if args.model is None and args.spec is None:
        raise ValueError("match: expected --model or --spec, which say what the symmetry is")
    if args.model is None:
        a, b = load_state_dict(args.a), load_state_dict(args.b)
        spec = common.read_spec(args, a)
        result = match(
            a,
            b,
            spec=spec,
            method=args.method,
            metric=args.metric,
            restarts=args.restarts,
            max_sweeps=args.max_sweeps,
            generator=torch.Generator().manual_seed(args.seed),
            regrets=True,
        )
    else:
        model_a = common.load_into(args, args.a)
        result = match(
            model_a,
            common.load_into(args, args.b),
            data=common.read_data(args),
            method=args.method,
            spec=common.read_spec(args, model_a),
            example_inputs=common.example_inputs(args),
            metric=args.metric,
            restarts=args.restarts,
            max_sweeps=args.max_sweeps,
            generator=torch.Generator().manual_seed(args.seed),
            regrets=True,
            progress=common.show_progress(),
        )
    result.save(args.out)
    print(result, file=sys.stderr)
    common.print_json(
        {
            "permutation": str(args.out),
            "method": result.method,
            "metric": result.metric,
            "objective": result.objective,
            "bound": result.bound,
            "sweeps": result.sweeps,
            "converged": result.converged,
            "history": result.history,
            "restarts": result.restarts,
            "proof": result.proof,
            "groups": {name: asdict(s) for name, s in result.statistics.items()},
        }
    )
    return 0
