"""What other packages get wrong: every row stays below 1e-5, or says what it pins and why."""

import pytest

from bench.defects import LIMIT, ROWS, TABLE, measure, table
from bench.record import load

PINS = {
    "rotary positions": "frequency of its own for every channel",
    "embedding tied to the output": "told apart by an index",
}


@pytest.mark.parametrize("name", ROWS)
def test_a_known_defect_is_absent(name):
    found = measure(name)
    assert found.change < LIMIT
    assert bool(found.pinned) == (name in PINS)
    assert all(PINS[name] in reason for reason in found.pinned)


def test_the_table_is_that_of_the_stored_run():
    stored = load("defects")
    assert set(stored["rows"]) == set(ROWS)
    assert TABLE.read_text(encoding="utf-8") == table(stored)
