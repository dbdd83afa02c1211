"""Reference networks of the demo and the studies: plain modules, nothing hidden."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

_NORMS_1D: dict[str | None, Callable[[int], nn.Module]] = {
    None: nn.Identity,
    "layernorm": nn.LayerNorm,
    "batchnorm": nn.BatchNorm1d,
}


def _norm2d(norm: str | None, channels: int) -> nn.Module:
    """Normalisation of a feature map; "layernorm" is one group over channels and pixels."""
    if norm is None:
        return nn.Identity()
    if norm == "batchnorm":
        return nn.BatchNorm2d(channels)
    if norm == "layernorm":
        return nn.GroupNorm(1, channels)
    raise ValueError(f"norm: expected None, 'batchnorm' or 'layernorm', got {norm!r}")


class MLP(nn.Module):
    """Fully connected ReLU network on flattened inputs.

    Parameters
    ----------
    sizes
        Units of every layer, input and output included: ``(784, 512, 512, 10)``.
    norm
        None, "layernorm" or "batchnorm" between each hidden linear layer and its ReLU.
    binary
        The last layer has one unit with logit z and the output is ``(0, z)``, so that cross
        entropy over the two is the binary cross entropy of z.
    """

    def __init__(
        self, sizes: Sequence[int], *, norm: str | None = None, binary: bool = False
    ) -> None:
        super().__init__()
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError(f"sizes: expected at least two positive sizes, got {tuple(sizes)}")
        if norm not in _NORMS_1D:
            raise ValueError(f"norm: expected None, 'layernorm' or 'batchnorm', got {norm!r}")
        if binary and sizes[-1] != 1:
            raise ValueError(f"binary: expected a last size of 1, got {sizes[-1]}")
        hidden = list(sizes[1:-1])
        self.binary = binary
        self.linears = nn.ModuleList(
            nn.Linear(a, b) for a, b in zip(sizes[:-2], hidden, strict=True)
        )
        self.norms = nn.ModuleList(_NORMS_1D[norm](width) for width in hidden)
        self.head = nn.Linear(sizes[-2], sizes[-1])

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape (batch, classes) for inputs of shape (batch, ...)."""
        x = x.flatten(1)
        for linear, norm in zip(self.linears, self.norms, strict=True):
            x = torch.relu(norm(linear(x)))
        x = self.head(x)
        return torch.cat([torch.zeros_like(x), x], dim=1) if self.binary else x


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, projected by a 1x1 convolution where sizes change."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, norm: str | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm1 = _norm2d(norm, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = _norm2d(norm, outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), _norm2d(norm, outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Feature map of shape (batch, outputs, height / stride, width / stride)."""
        out = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(out)) + self.shortcut(x))


class ResNet(nn.Module):
    """Residual convolutional network of He et al. 2015, section 4.2, one stage a width.

    Parameters
    ----------
    widths
        Channels of each stage; every stage after the first halves the resolution.
    blocks
        Residual blocks in each stage.
    channels
        Channels of the input.
    classes
        Units of the last linear layer.
    norm
        "batchnorm", "layernorm" (one group over channels and pixels) or None.
    """

    def __init__(
        self,
        widths: Sequence[int],
        *,
        blocks: int,
        channels: int,
        classes: int,
        norm: str | None = "batchnorm",
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.stem_norm = _norm2d(norm, widths[0])
        layers: list[nn.Module] = []
        inputs = widths[0]
        for stage, width in enumerate(widths):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(ResidualBlock(inputs, width, stride=stride, norm=norm))
                inputs = width
        self.blocks = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape (batch, classes) for images of shape (batch, channels, h, w)."""
        x = torch.relu(self.stem_norm(self.stem(x)))
        return self.head(self.pool(self.blocks(x)).flatten(1))  # type: ignore[no-any-return]


def digits_resnet(width: int = 16, *, norm: str | None = "batchnorm") -> ResNet:
    """Small residual network for the 8x8 digits: two stages of one block, `width` and 2 `width`."""
    return ResNet((width, 2 * width), blocks=1, channels=1, classes=10, norm=norm)


def resnet20(width: int = 16, *, norm: str | None = "batchnorm", classes: int = 10) -> ResNet:
    """ResNet-20 for 32x32 colour images: stages of `width`, 2 `width` and 4 `width` channels."""
    return ResNet((width, 2 * width, 4 * width), blocks=3, channels=3, classes=classes, norm=norm)


_VGG16 = (1, 1, 0, 2, 2, 0, 4, 4, 4, 0, 8, 8, 8, 0, 8, 8, 8, 0)


class VGG16(nn.Module):
    """VGG-16 for 32x32 colour images with one linear layer (Simonyan and Zisserman 2014, column D).

    `width` is the number of channels of the first two convolutions, 64 in the paper; the others
    are 2, 4 and 8 times as wide. `norm` is None, "batchnorm" or "layernorm".
    """

    def __init__(self, width: int = 64, *, norm: str | None = None, classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for factor in _VGG16:
            if factor == 0:
                layers.append(nn.MaxPool2d(2))
                continue
            conv = nn.Conv2d(inputs, factor * width, 3, padding=1, bias=norm is None)
            layers += [conv, _norm2d(norm, factor * width), nn.ReLU()]
            inputs = factor * width
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape (batch, classes) for images of shape (batch, 3, 32, 32)."""
        return self.head(self.features(x).flatten(1))  # type: ignore[no-any-return]
