"""The einops-like notation in which permutation specs are written and printed.

One line per tensor, one term per axis: ``fc2.weight: hidden (channel 49)``.

=================  ==========================================================================
``hidden``         the axis is moved by the group ``hidden``
``784``            the axis is fixed and has 784 entries
``_``              the axis is fixed, of any size
``(channel 49)``   a product in row-major order: blocks of 49 entries, one per channel
``(a + b + 3)``    a concatenation of segments, each a product
=================  ==========================================================================
"""

import re
from dataclasses import dataclass
from functools import cached_property

Factor = int | str | None
"""A fixed size, the name of a group, or None for a fixed axis of any size."""

Segment = tuple[Factor, ...]

_TOKEN = re.compile(r"\s*([()+]|[^\s()+]+)")
_GROUP_NAME = re.compile(r"[A-Za-z_][\w.\-\[\]/]*")


@dataclass(frozen=True)
class Term:
    """What moves one axis: a concatenation of segments, each a row-major product of factors."""

    segments: tuple[Segment, ...]

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups that move this axis, in order of appearance, with repeats."""
        return tuple(f for segment in self.segments for f in segment if isinstance(f, str))

    @property
    def is_fixed(self) -> bool:
        """Whether no group moves this axis."""
        return not self.groups

    def __str__(self) -> str:
        parts = [
            " ".join("_" if f is None else str(f) for f in segment) for segment in self.segments
        ]
        if len(parts) == 1 and len(self.segments[0]) == 1:
            return parts[0]
        return "(" + " + ".join(parts) + ")"


def fixed(size: int | None) -> Term:
    """Return the term of an axis that no group moves."""
    return Term(((size,),))


def group(name: str) -> Term:
    """Return the term of an axis moved by one group."""
    return Term(((name,),))


def parse_terms(text: str) -> tuple[Term, ...]:
    """Parse the terms of one tensor, ``"hidden (channel 49)"``, into one `Term` per axis.

    Raises
    ------
    ValueError
        If the text is not in the notation; the message quotes it.
    """
    tokens = _TOKEN.findall(text)
    terms: list[Term] = []
    position = 0
    while position < len(tokens):
        token = tokens[position]
        if token == "(":
            close = _matching_parenthesis(tokens, position, text)
            terms.append(Term(_parse_sum(tokens[position + 1 : close], text)))
            position = close + 1
        else:
            terms.append(Term(((_parse_factor(token, text),),)))
            position += 1
    return tuple(terms)


def parse_lines(
    text: str,
) -> tuple[dict[str, tuple[Term, ...]], dict[str, int], dict[str, str]]:
    """Parse the lines of a spec: terms by tensor, sizes by group, outer groups by nested group.

    A later line of a tensor or group replaces an earlier one.

    Raises
    ------
    ValueError
        Quoting a line that is not in the notation.
    """
    tensors: dict[str, tuple[Term, ...]] = {}
    sizes: dict[str, int] = {}
    parents: dict[str, str] = {}
    for raw in text.splitlines():
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        name, colon, terms = line.partition(":")
        if colon and "=" not in name:
            tensors[name.strip()] = parse_terms(terms)
            continue
        name, equals, definition = line.partition("=")
        size, *words = definition.split() or [""]
        nested = len(words) == 2 and words[0] == "per"
        if not equals or not size.isdigit() or (words and not nested):
            raise ValueError(
                "expected 'tensor: terms', 'group = size' or 'group = size per group', "
                f"got {line!r}"
            )
        sizes[name.strip()] = int(size)
        if nested:
            parents[name.strip()] = words[1]
    return tensors, sizes, parents


def _matching_parenthesis(tokens: list[str], start: int, text: str) -> int:
    depth = 0
    for i in range(start, len(tokens)):
        depth += (tokens[i] == "(") - (tokens[i] == ")")
        if depth == 0:
            return i
    raise ValueError(f"expected a closing parenthesis in the terms {text!r}")


def _parse_sum(tokens: list[str], text: str) -> tuple[Segment, ...]:
    segments: list[list[Factor]] = [[]]
    position = 0
    while position < len(tokens):
        token = tokens[position]
        if token == "+":
            segments.append([])
        elif token == "(":
            close = _matching_parenthesis(tokens, position, text)
            inner = _parse_sum(tokens[position + 1 : close], text)
            if len(inner) != 1:
                raise ValueError(
                    f"expected concatenation only at the outer level of an axis, got {text!r}"
                )
            segments[-1].extend(inner[0])
            position = close
        else:
            segments[-1].append(_parse_factor(token, text))
        position += 1
    if any(not segment for segment in segments):
        raise ValueError(
            f"expected a factor on both sides of every '+' and in every '()' of {text!r}"
        )
    return tuple(tuple(segment) for segment in segments)


def _parse_factor(token: str, text: str) -> Factor:
    if token == "_":
        return None
    if token.isdigit():
        return int(token)
    if _GROUP_NAME.fullmatch(token):
        return token
    raise ValueError(
        f"expected a group name, a size, '_' or a parenthesis, got {token!r} in {text!r}"
    )
