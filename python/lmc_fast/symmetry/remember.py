"""What was derived or proven once per architecture, kept for the next call."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

MAX_REMEMBERED = 256
"""How many results are kept; the one not used for longest is dropped first."""

_Result = TypeVar("_Result")
_RESULTS: OrderedDict[Any, Any] = OrderedDict()
_LOCK = threading.Lock()


def remember(key: Any, make: Callable[[], _Result]) -> _Result:
    """Return the result stored under `key`, made now if there is none; safe in many threads."""
    with _LOCK:
        if key in _RESULTS:
            _RESULTS.move_to_end(key)
            found: _Result = _RESULTS[key]
            return found
    result = make()
    with _LOCK:
        _RESULTS[key] = result
        while len(_RESULTS) > MAX_REMEMBERED:
            _RESULTS.popitem(last=False)
    return result
