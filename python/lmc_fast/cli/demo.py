"""``lmc-fast demo``: train, align and measure on real data, in one go."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from lmc_fast.datasets import load_dataset
from lmc_fast.demo import run_demo, settings_of, table, write_results


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "demo", help="train two pairs of networks, align them, and measure the barrier"
    )
    parser.add_argument("--data", choices=("digits", "mnist"), default="digits")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="folder with MNIST/raw/*.gz")
    parser.add_argument("--width", type=int, default=512, help="hidden units of the MLP (512)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("lmc-fast-demo"), metavar="DIR")
    parser.add_argument("--force", action="store_true", help="overwrite existing files")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the demo and write its files."""
    if args.width < 1:
        raise ValueError(f"--width: expected at least 1, got {args.width}")
    if args.out.exists() and not args.out.is_dir():
        raise NotADirectoryError(f"--out: expected a folder, got the file {args.out}")
    if args.out.is_dir() and any(args.out.iterdir()) and not args.force:
        raise FileExistsError(f"{args.out} is not empty: give --force to overwrite its files")
    data = load_dataset(args.data, args.data_dir)
    start = time.perf_counter()
    pairs, rows = run_demo(data, width=args.width, seed=args.seed, progress=True)
    seconds = time.perf_counter() - start
    args.out.mkdir(parents=True, exist_ok=True)
    settings = settings_of(data, width=args.width, seed=args.seed, seconds=seconds)
    written = write_results(rows, settings, args.out)
    print(f"data: {data.name}; chord barriers; spec derived and proven on each model\n")
    print(table(pairs, rows))
    print(f"\n{seconds:.1f} s in all; wrote {', '.join(map(str, written))}", file=sys.stderr)
    return 0
