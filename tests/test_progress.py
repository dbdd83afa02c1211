import io
import sys

import pytest
from lmc_fast import progress


class Stderr(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def shown(monkeypatch, *, terminal: bool, show: bool = True, interval: float = 0.0) -> str:
    """What a loop of five in a loop of two writes to stderr."""
    stderr = Stderr(terminal)
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr(progress, "INTERVAL", interval)
    for _ in progress.progress_bar(range(2), desc="outer", show=show):
        for _ in progress.progress_bar(range(5), desc="inner", show=show, leave=False):
            pass
    return stderr.getvalue()


def test_a_log_gets_whole_lines(monkeypatch):
    lines = shown(monkeypatch, terminal=False).splitlines(keepends=True)
    assert all(line.endswith("\n") and "\r" not in line and "\x1b" not in line for line in lines)
    assert all(line.startswith(("outer", "inner")) for line in lines)
    assert any("5/5" in line for line in lines)
    assert "100%" in lines[-1]


def test_a_short_loop_says_nothing_in_a_log(monkeypatch):
    assert shown(monkeypatch, terminal=False, interval=30.0) == ""


def test_a_terminal_gets_a_bar(monkeypatch):
    assert "\r" in shown(monkeypatch, terminal=True)


@pytest.mark.parametrize("terminal", [True, False])
def test_nothing_is_shown_unasked(monkeypatch, terminal):
    assert shown(monkeypatch, terminal=terminal, show=False) == ""
