"""The ``lmc-fast`` command line: results as JSON on stdout, messages on stderr.

Exit codes: 0 done, 1 the input was refused, 2 the command line was not understood, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import warnings
from collections.abc import Sequence

COMMANDS = ("demo", "match", "apply", "barrier", "verify", "zoo", "report", "study")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="lmc-fast",
        description="Align the hidden units of two trained networks and measure the loss barrier "
        "left between them.",
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        importlib.import_module(f"lmc_fast.cli.{name}").add_parser(subparsers)
    args = parser.parse_args(argv)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print(
            f"warning: {message}", file=sys.stderr
        )
        try:
            return int(args.run(args))
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
        except (ValueError, TypeError, OSError, MemoryError, ImportError) as error:
            print(f"lmc-fast {args.command}: {error}", file=sys.stderr)
            return 1
