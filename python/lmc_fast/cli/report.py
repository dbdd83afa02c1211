"""``lmc-fast report RESULT...``: one self-contained HTML file."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from lmc_fast.cli import common
from lmc_fast.files import replacing
from lmc_fast.report import render_report
from lmc_fast.report_sources import read_results


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("report", help="write results into one HTML file")
    parser.add_argument(
        "results",
        type=Path,
        nargs="+",
        metavar="RESULT",
        help="what lmc-fast wrote: a file of barrier, match or study, a result's to_json, or a "
        "folder of zoo, demo or study",
    )
    common.add_output_arguments(parser, required=True, what="the HTML file")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Read the results and write the report; its path goes to stdout as JSON."""
    common.refuse_overwriting(args, *args.results)
    results = read_results(args.results)
    text = render_report(results)
    with replacing(args.out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    kinds = [type(result).__name__ for result in results.values()]
    common.print_json({"report": str(args.out), "results": dict(Counter(kinds))})
    return 0
