"""``lmc-fast study``: reproduce a published result, list them, or summarise stored runs."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand to the parser."""
    parser = subparsers.add_parser(
        "study",
        help="reproduce a published result",
        description="Reproduce a published result: print the published values beside ours, write "
        "NAME.json and NAME.png. An interrupted study goes on from its finished parts.",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="a study of --list")
    parser.add_argument("--list", action="store_true", help="list the studies, one a line")
    parser.add_argument(
        "--summary", type=Path, metavar="DIR", help="print the runs stored in DIR as Markdown"
    )
    scale = parser.add_mutually_exclusive_group()
    scale.add_argument("--quick", action="store_true", help="seconds: fewer and smaller networks")
    scale.add_argument("--full", action="store_true", help="the scale of the publication")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (0)")
    parser.add_argument("--data-dir", type=Path, help="folder that holds MNIST/raw and CIFAR-10")
    parser.add_argument(
        "--out", type=Path, default=Path("studies"), help="folder for results (studies)"
    )
    parser.add_argument(
        "--device", help="where networks on CIFAR-10 train (cuda with --full where there is one)"
    )
    parser.add_argument("--force", action="store_true", help="replace a stored result")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand and return its exit code."""
    import torch

    from lmc_fast.studies import Context, run_study, studies, summary, table

    if args.summary is not None:
        print(summary(args.summary), end="")
        return 0
    available = studies()
    if args.list:
        for study in available.values():
            needs = f" [{study.data}]" if study.data else ""
            print(f"{study.name}{needs}: {study.claim}")
        return 0
    if args.name not in available:
        raise ValueError(
            f"study: expected one of {', '.join(available)}, got {args.name or 'no name'}"
        )
    study = available[args.name]
    record_path = args.out / f"{study.name}.json"
    if record_path.exists() and not args.force:
        raise ValueError(
            f"{record_path}: expected no result of an earlier run, found one; give --force or "
            "another --out"
        )
    context = Context(
        name=study.name,
        scale="quick" if args.quick else "full" if args.full else "default",
        seed=args.seed,
        out=args.out,
        data_dir=args.data_dir,
        device=args.device or ("cuda" if args.full and torch.cuda.is_available() else "cpu"),
        progress=True,
    )
    record = run_study(study, context, command=_command(args))
    print(f"{study.claim}\n({study.source})\n\n{table(record)}")
    if record["notes"]:
        print(f"\n{record['notes']}")
    print(f"{record['seconds']} s; wrote {record_path} and its figure", file=sys.stderr)
    return 0


def _command(args: argparse.Namespace) -> str:
    """Return the command that repeats the run; folders are left to whoever repeats it."""
    words: list[Any] = ["lmc-fast", "study", args.name, "--seed", args.seed]
    words += ["--quick"] if args.quick else ["--full"] if args.full else []
    words += ["--data-dir", "DATA"] if args.data_dir else []
    return shlex.join(str(word) for word in words)
