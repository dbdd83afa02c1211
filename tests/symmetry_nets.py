"""Small networks for the tests of derived specs."""

import torch
from torch import nn


class Function(nn.Module):
    """Modules, parameters and buffers by name, and a function of them and the input."""

    def __init__(self, function, **parts):
        super().__init__()
        for name, part in parts.items():
            if isinstance(part, torch.Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)
        self.function = function

    def forward(self, x):
        return self.function(self, x)


def randn(*shape, seed=0):
    """Normal numbers of a generator of their own."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
