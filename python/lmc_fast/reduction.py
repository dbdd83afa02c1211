"""Reduction of a one-hidden-layer ReLU network: redundant and dead units are taken out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class HiddenLayer:
    """A hidden ReLU layer with its output weights: x -> w_out relu(w_in x + bias) + bias_out.

    Attributes
    ----------
    w_in
        Shape (width, inputs).
    bias
        Shape (width,).
    w_out
        Shape (outputs, width).
    bias_out
        Shape (outputs,).
    """

    w_in: Tensor
    bias: Tensor
    w_out: Tensor
    bias_out: Tensor

    @property
    def width(self) -> int:
        """Number of hidden units."""
        return len(self.bias)

    def padded(self, width: int) -> HiddenLayer:
        """Return the same function with `width` units, the added ones zero.

        Raises
        ------
        ValueError
            `width` is below the layer's own.
        """
        extra = width - self.width
        if extra < 0:
            raise ValueError(f"width: expected at least {self.width}, got {width}")
        pad = torch.nn.functional.pad
        return HiddenLayer(
            pad(self.w_in, (0, 0, 0, extra)),
            pad(self.bias, (0, extra)),
            pad(self.w_out, (0, extra)),
            self.bias_out,
        )


def reduce_units(
    layer: HiddenLayer,
    inputs: Tensor | None = None,
    *,
    min_cosine: float = 0.99,
    stop: Literal["none left", "half seen"] = "none left",
) -> tuple[HiddenLayer, Tensor]:
    """Merge units that are nearly positive multiples of each other, then drop the dead ones.

    With v_i = (w_in_i, bias_i), as long as some two units have a cosine above `min_cosine`, the
    first of the two closest keeps its place, every unit with a cosine above `min_cosine` to it
    goes, and its output weights are added to the kept one's, times |v_j| / |v_i|: since
    relu(c z) = c relu(z) for c > 0, that leaves the function unchanged where the cosine is 1.

    Parameters
    ----------
    layer
        Not modified.
    inputs
        Examples, shape (n, inputs): units that none of them activates go too.
    min_cosine
        Two units above it count as one.
    stop
        "none left": when no two units are above `min_cosine`. "half seen": already when the units
        kept or merged so far are as many as those that remain, the rule of the code behind
        published reduced widths; it leaves mergeable units in wide layers.

    Returns
    -------
    tuple
        The reduced layer, and the indices of the units kept, int64. Complexity
        O(width^2 inputs + width^3).
    """
    if stop not in ("none left", "half seen"):
        raise ValueError(f"stop: expected 'none left' or 'half seen', got {stop!r}")
    v = torch.cat([layer.w_in, layer.bias.unsqueeze(1)], dim=1)
    norms = v.norm(dim=1)
    directions = torch.nn.functional.normalize(v, dim=1)
    cosine = (directions @ directions.T).fill_diagonal_(-1)
    w_out = layer.w_out.clone()
    alive = torch.ones(layer.width, dtype=torch.bool)
    seen = 0
    while stop == "none left" or seen < int(alive.sum()):
        kept, other = divmod(int(cosine.argmax()), layer.width) if layer.width else (0, 0)
        if layer.width == 0 or not cosine[kept, other] > min_cosine:
            break
        merged = (cosine[kept] > min_cosine).nonzero().squeeze(1)
        w_out[:, kept] += (w_out[:, merged] * (norms[merged] / norms[kept])).sum(1)
        alive[merged] = False
        cosine[merged] = -1
        cosine[:, merged] = -1
        seen += 1 + len(merged)
    if inputs is not None:
        alive &= (inputs @ layer.w_in.T + layer.bias > 0).any(0)
    units = alive.nonzero().squeeze(1)
    reduced = HiddenLayer(layer.w_in[units], layer.bias[units], w_out[:, units], layer.bias_out)
    return reduced, units
