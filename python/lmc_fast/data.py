"""What ``data=`` accepts, read the same way by matching and by barriers.

Accepted: a DataLoader or any other iterable of batches that can be iterated again, a pair of
tensors ``(inputs, targets)``, and, where targets are not needed, one tensor of inputs or batches
of inputs.
A batch is an ``(input, target)`` pair or a bare input. An input is a tensor, a tuple of positional
arguments, or a mapping of keyword arguments.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

Data: TypeAlias = Iterable[Any] | Tensor | tuple[Any, Any]

BATCH_SIZE = 1024


class Batch(NamedTuple):
    """One batch: what the model is called with, and its targets where the data has them."""

    inputs: Any
    targets: Tensor | None


def batches(
    data: Data,
    *,
    device: torch.device | str | None = None,
    batch_size: int = BATCH_SIZE,
    passes: int = 1,
) -> Iterator[Batch]:
    """Iterate over ``data`` once, batch by batch.

    Every model that is to see the data is called on a batch before the next one is drawn, so that
    shuffled loaders and one-shot iterators pair examples rightly.

    Parameters
    ----------
    data
        See the module's docstring. A *tuple* of two tensors (or arrays) is the pair
        ``(inputs, targets)``; a list is a sequence of batches.
    device
        Where the batches are moved to; by default they stay where they are.
    batch_size
        Examples per batch when ``data`` is given as tensors; iterables keep their own batches.
    passes
        How often the caller will iterate over ``data`` altogether.

    Raises
    ------
    ValueError
        If ``data`` holds no example, if inputs and targets differ in length, or if a one-shot
        iterator is given and ``passes`` is above one.
    TypeError
        If ``data`` is none of the accepted kinds.
    """
    if isinstance(data, (str, bytes, Mapping)) or data is None:
        raise TypeError(_expected(data))
    tensors = _as_tensors(data)
    if tensors is not None:
        source: Iterable[Any] = _split(*tensors, batch_size)
    else:
        if not isinstance(data, Iterable):
            raise TypeError(_expected(data))
        if passes > 1 and iter(data) is data:
            raise ValueError(
                f"data is a one-shot iterator but {passes} passes over it are needed; "
                "give a list of batches or a DataLoader"
            )
        source = data
    return _moved(source, device)


def grouped(stream: Iterable[Batch], *, examples: int, max_bytes: int) -> Iterator[list[Batch]]:
    """Collect successive batches until they hold ``examples`` examples or ``max_bytes`` bytes."""
    held: list[Batch] = []
    size = count = 0
    for batch in stream:
        held.append(batch)
        count += count_examples(batch.inputs)
        size += sum(t.numel() * t.element_size() for t in batch if isinstance(t, Tensor))
        if count >= examples or size * (1 + 1 / len(held)) > max_bytes:
            yield held
            held, size, count = [], 0, 0
    if held:
        yield held


def take(value: Any, part: slice) -> Any:
    """Return some of the examples of one batch's inputs, or of a model's output."""
    if isinstance(value, Tensor):
        return value[part] if value.dim() else value
    if isinstance(value, Mapping):
        return {key: take(item, part) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(take(item, part) for item in value)
    return value


def input_of(data: Data) -> Any:
    """Return the inputs of the first batch, without moving them."""
    return next(batches(data)).inputs


def count_batches(data: Data, *, batch_size: int = BATCH_SIZE) -> int | None:
    """Return how many batches one pass over ``data`` yields, or None where it cannot be known."""
    tensors = _as_tensors(data)
    if tensors is not None:
        return -(-tensors[0].shape[0] // batch_size)
    try:
        return len(data)  # type: ignore[arg-type]
    except TypeError:
        return None


def count_examples(inputs: Any) -> int:
    """Return the number of examples (the first axis) of one batch's inputs."""
    tensor = first_tensor(inputs)
    if tensor is None or tensor.dim() == 0:
        raise TypeError("a batch's inputs hold no tensor with a batch axis")
    return int(tensor.shape[0])


def first_tensor(value: Any) -> Tensor | None:
    """Return the first tensor found in a tensor, sequence or mapping."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, (tuple, list)):
        for part in value:
            found = first_tensor(part)
            if found is not None:
                return found
    return None


def call(model: Any, inputs: Any) -> Any:
    """Call ``model`` on one batch's inputs: tuples are unpacked, mappings passed by keyword."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, (tuple, list)):
        return model(*inputs)
    return model(inputs)


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the model's first parameter or buffer, the CPU where it has none."""
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        return tensor.device
    return torch.device("cpu")


def move(value: Any, device: torch.device | str | None) -> Any:
    """Return ``value`` with every tensor in it moved to ``device``; arrays become tensors."""
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if isinstance(value, Tensor):
        return value if device is None else value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {key: move(part, device) for key, part in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(move(part, device) for part in value)
    return value


def _as_tensors(data: Data) -> tuple[Tensor, Tensor | None] | None:
    if isinstance(data, (Tensor, np.ndarray)):
        return torch.as_tensor(data), None
    if (
        isinstance(data, tuple)
        and len(data) == 2
        and all(isinstance(part, (Tensor, np.ndarray)) for part in data)
    ):
        inputs, targets = torch.as_tensor(data[0]), torch.as_tensor(data[1])
        if inputs.shape[:1] != targets.shape[:1]:
            raise ValueError(
                f"inputs and targets must have equal length, got shapes {tuple(inputs.shape)} "
                f"and {tuple(targets.shape)}"
            )
        return inputs, targets
    return None


def _split(inputs: Tensor, targets: Tensor | None, batch_size: int) -> Iterator[Any]:
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    for start in range(0, inputs.shape[0], batch_size):
        part = slice(start, start + batch_size)
        yield inputs[part] if targets is None else (inputs[part], targets[part])


def _moved(source: Iterable[Any], device: torch.device | str | None) -> Iterator[Batch]:
    empty = True
    for item in source:
        inputs, targets = item if _is_pair(item) else (item, None)
        inputs = move(inputs, device)
        if count_examples(inputs) == 0:
            continue
        empty = False
        if targets is not None:
            targets = move(torch.as_tensor(targets), device)
            if targets.shape[:1] != (count_examples(inputs),):
                raise ValueError(
                    f"a batch has {count_examples(inputs)} inputs but targets of shape "
                    f"{tuple(targets.shape)}"
                )
        yield Batch(inputs, targets)
    if empty:
        raise ValueError("data is empty: expected at least one example")


def _is_pair(item: Any) -> bool:
    return isinstance(item, (tuple, list)) and len(item) == 2


def _expected(data: object) -> str:
    return (
        "data must be a DataLoader, an iterable of (input, target) batches or a pair of tensors, "
        f"got {type(data).__name__}"
    )
