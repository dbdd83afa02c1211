"""``python -m bench report``: write the tables of the stored results into README.md.

A table stands between ``<!-- bench:NAME -->`` and ``<!-- /bench:NAME -->``; the module bench.NAME
makes it with ``table(results)`` from bench/results/NAME.json.
"""

from __future__ import annotations

import argparse
import importlib
import re
from pathlib import Path

from bench import record

README = Path(__file__).parent.parent / "README.md"
_MARKED = re.compile(r"(<!-- bench:([\w-]+) -->\n).*?(<!-- /bench:\2 -->)", re.S)


def rendered(text: str) -> str:
    """Replace what stands between the markers by tables made from the stored results."""

    def table(match: re.Match[str]) -> str:
        name = match.group(2)
        results = record.load(name)
        environment = results["environment"]
        made_by = (
            f"`{results['command']}`, {environment['date']}, {environment['cpu']}, "
            f"{environment['cores']} cores, torch {environment['torch']}"
        )
        body = importlib.import_module(f"bench.{name.partition('-')[0]}").table(results)
        return f"{match.group(1)}{body}\n\n{made_by}\n{match.group(3)}"

    return _MARKED.sub(table, text)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench report", description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit 1 if README.md is out of date")
    args = parser.parse_args(argv)
    old = README.read_text(encoding="utf-8")
    new = rendered(old)
    if args.check:
        return int(old != new)
    README.write_text(new, encoding="utf-8")
    return 0
