"""A CUDA device that is not there: code that runs on one, run where there is none.

Tensors keep their values on the host and say that they lie on ``cuda:0``. As on a real device, an
operation refuses tensors of both kinds, `numpy` refuses them, and what is made on the device stays
there. Kernels run through the SIMT shim; streams, events and graphs of `torch.cuda` do nothing.
"""

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch
from lmc_fast import _core
from lmc_fast._cuda import launcher, placement
from lmc_fast.barrier import replay
from simt_host import HostLauncher, host_kernels
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("cuda", 0)


class DeviceTensor(torch.Tensor):
    """A tensor on the host that says that it lies on the device."""

    device = property(lambda self: DEVICE)
    is_cuda = property(lambda self: True)

    def __deepcopy__(self, memo):
        copy = self.detach().clone()
        if isinstance(self, torch.nn.Parameter):
            copy = torch.nn.Parameter(copy, self.requires_grad)
        memo[id(self)] = copy
        return copy


MOVES = (torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.cuda)
TAKES_BOTH = (
    torch.Tensor.copy_,
    torch.Tensor.__getitem__,
    torch.Tensor.__setitem__,
    torch._has_compatible_shallow_copy_type,
)
REFUSED = (torch.Tensor.numpy, torch.Tensor.__array__)


def here(value):
    return value.as_subclass(DeviceTensor) if isinstance(value, torch.Tensor) else value


def there(value):
    return value.as_subclass(torch.Tensor) if isinstance(value, DeviceTensor) else value


def is_device(value):
    return isinstance(value, (str, torch.device)) and str(value).split(":")[0] in ("cuda", "cpu")


class PretendDevice(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        inside = [t for t in tensors if isinstance(t, DeviceTensor)]
        if func in MOVES:
            return self.move(func, args, kwargs)
        if func in REFUSED and inside:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        outside = [t for t in tensors if not isinstance(t, DeviceTensor) and t.dim()]
        if inside and outside and func not in TAKES_BOTH:
            raise RuntimeError(f"{func}: expected all tensors on one device, got cuda:0 and cpu")
        device = kwargs.get("device")
        if device is not None and is_device(device):
            kwargs["device"] = "cpu"
            result = func(*args, **kwargs)
            return tree_map(here if torch.device(device).type == "cuda" else there, result)
        return func(*args, **kwargs)

    def move(self, func, args, kwargs):
        tensor, *rest = args
        given = [*rest, *kwargs.values()]
        named = [v.device if isinstance(v, torch.Tensor) else v for v in given]
        named = [torch.device(v) for v in named if is_device(v)]
        if func is torch.Tensor.cpu:
            named = [torch.device("cpu")]
        if func is torch.Tensor.cuda:
            named = [DEVICE]
        kept = [v for v in rest if isinstance(v, torch.dtype)]
        options = {k: v for k, v in kwargs.items() if k in ("dtype", "memory_format")}
        moved = named and named[0] != tensor.device
        if kept or options:
            result = torch.Tensor.to(tensor, *kept, **options)
        else:
            result = tensor.clone() if moved else tensor
        if not named:
            return result
        return here(result) if named[0].type == "cuda" else there(result)


class Event:
    def __init__(self, enable_timing=False):
        pass

    def record(self):
        pass

    def elapsed_time(self, other):
        return 1.0


class Graph:
    def replay(self):
        pass


def stream(*_):
    return SimpleNamespace(cuda_stream=0, wait_stream=lambda other: None)


def rerun(forward, *, device):
    """A capture: replaying runs the forward pass again into the same output."""
    output = forward()
    return lambda: output.copy_(forward()), output


PROPERTIES = SimpleNamespace(name="Pretended GPU", multi_processor_count=2)
CUDA = {
    "is_available": lambda: True,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "set_device": lambda device: None,
    "get_device_capability": lambda device: (9, 0),
    "get_device_properties": lambda device: PROPERTIES,
    "mem_get_info": lambda device: (1 << 20, 1 << 20),
    "memory_allocated": lambda device: 0,
    "synchronize": lambda device=None: None,
    "empty_cache": lambda: None,
    "current_stream": stream,
    "Stream": stream,
    "stream": lambda given: nullcontext(),
    "device": lambda given: nullcontext(),
    "is_current_stream_capturing": lambda: False,
    "Event": Event,
    "CUDAGraph": Graph,
    "graph": lambda graph, **options: nullcontext(),
    "_sleep": lambda cycles: None,
    "get_rng_state": lambda device=None: None,
    "set_rng_state": lambda state, device=None: None,
    "manual_seed_all": lambda seed: None,
}


def is_real(cost):
    return isinstance(cost, torch.Tensor) and cost.is_floating_point() and cost.ndim >= 2


@contextmanager
def pretend_cuda():
    """Within it `torch` and the package see one device of capability 9.0."""
    launcher.launcher_or_none.cache_clear()
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with pytest.MonkeyPatch.context() as patch, PretendDevice():
            for name, value in CUDA.items():
                patch.setattr(torch.cuda, name, value)
            patch.setattr(torch.version, "cuda", "13.0")
            patch.setattr(_core, "cuda_device_count", lambda: 1)
            patch.setattr(
                launcher, "_load", lambda index, source: HostLauncher(host_kernels(source))
            )
            patch.setattr(placement, "_is_real", is_real)
            patch.setattr(replay, "capture_graph", rerun)
            yield
    finally:
        launcher.launcher_or_none.cache_clear()
        torch.__future__.set_overwrite_module_params_on_conversion(overwrite)
