"""Results as JSON text."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any, ClassVar, TypeVar

import numpy as np

_Result = TypeVar("_Result", bound="Stored")


class Stored:
    """A frozen dataclass of arrays, names and settings that can be written as JSON and read back.

    Attributes
    ----------
    kind
        What the JSON text calls itself.
    left_out
        Names of fields that are not written.
    """

    kind: ClassVar[str]
    left_out: ClassVar[tuple[str, ...]] = ()

    def to_json(self) -> str:
        """Return the result as JSON text; non-finite values are written as strings."""
        content: dict[str, Any] = {"kind": self.kind}
        for name in self._names():
            value = getattr(self, name)
            content[name] = _plain(value.tolist()) if isinstance(value, np.ndarray) else value
        content["settings"] = dict(content["settings"])
        return json.dumps(content, allow_nan=False)

    @classmethod
    def from_json(cls: type[_Result], text: str) -> _Result:
        """Return what `to_json` wrote; ValueError where ``text`` is no such thing."""
        try:
            content = json.loads(text)
            if content.get("kind", cls.kind) != cls.kind:
                raise ValueError(f"it is a {content['kind']}")
            values = {name: content[name] for name in cls._names()}
            for field in fields(cls):  # type: ignore[arg-type]
                value = values.get(field.name)
                if value is not None and "NDArray" in str(field.type):
                    values[field.name] = np.array(_numbers(value), dtype=np.float64)
                elif isinstance(value, list):
                    values[field.name] = tuple(value)
            return cls(**values)
        except (AttributeError, KeyError, TypeError, ValueError) as fault:
            raise ValueError(f"expected the JSON text of a {cls.__name__}: {fault}") from None

    @classmethod
    def _names(cls) -> list[str]:
        found = fields(cls)  # type: ignore[arg-type]
        return [field.name for field in found if field.name not in cls.left_out]


def _plain(values: Any) -> Any:
    if isinstance(values, list):
        return [_plain(value) for value in values]
    return values if np.isfinite(values) else str(values)


def _numbers(values: Any) -> Any:
    return [_numbers(value) for value in values] if isinstance(values, list) else float(values)
