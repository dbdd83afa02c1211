"""Progress of long loops: a bar on a terminal, an occasional line anywhere else."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, TypeVar, overload

from tqdm import tqdm

T = TypeVar("T")
INTERVAL = 30.0
"""Seconds between two lines where stderr is no terminal; shorter loops say nothing there."""


class _Lines:
    """What a bar writes, as lines of their own: no carriage returns, no cursor movements."""

    def write(self, text: str) -> None:
        line = text.replace("\x1b[A", "").strip()
        if line:
            sys.stderr.write(line + "\n")

    def flush(self) -> None:
        sys.stderr.flush()


@overload
def progress_bar(iterable: Iterable[T], *, show: bool, **options: Any) -> tqdm[T]: ...
@overload
def progress_bar(iterable: None = None, *, show: bool, **options: Any) -> tqdm[Any]: ...


def progress_bar(iterable: Any = None, *, show: bool, **options: Any) -> tqdm[Any]:
    """Return tqdm's bar over `iterable`, on stderr, as bars or lines; silent without `show`.

    `options` are those of tqdm.
    """
    if show and not sys.stderr.isatty():
        options |= {
            "file": _Lines(),
            "ascii": True,
            "ncols": 80,
            "delay": INTERVAL,
            "mininterval": INTERVAL,
            "maxinterval": 2 * INTERVAL,
            "leave": True,
        }
    return tqdm(iterable, disable=not show, **options)
