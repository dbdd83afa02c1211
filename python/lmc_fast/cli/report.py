"""``lmc-fast report RESULT...``: one self-contained HTML file."""

from __future__ import annotations

import argparse
from pathlib import Path

from lmc_fast.cli import common
from lmc_fast.files import replacing
from lmc_fast.report import read_results, render_report


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("report", help="write results into one HTML file")
    parser.add_argument(
        "results",
        type=Path,
        nargs="+",
        metavar="RESULT",
        help="a JSON file of lmc-fast barrier, or a folder of lmc-fast zoo",
    )
    common.add_output_arguments(parser, required=True, what="the HTML file")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Read the results and write the report; its path goes to stdout as JSON."""
    common.refuse_overwriting(args, *args.results)
    curves, matrices = read_results(args.results)
    text = render_report(curves, matrices)
    with replacing(args.out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    common.print_json({"report": str(args.out), "curves": len(curves), "zoos": len(matrices)})
    return 0
