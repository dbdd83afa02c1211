"""Reading and writing checkpoints: safetensors or torch files, never code."""

from __future__ import annotations

import os
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lmc_fast.files import replacing
from lmc_fast.tensors import check_readable

Network: TypeAlias = nn.Module | Mapping[str, Tensor] | str | os.PathLike[str]

_NESTED_KEYS = ("state_dict", "model_state_dict", "model")


def load_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint.

    Parameters
    ----------
    path : path
        A safetensors file, or a torch file that holds a state dict, bare or under the key
        "state_dict", "model_state_dict" or "model". Nothing in the file is executed.

    Raises
    ------
    FileNotFoundError, IsADirectoryError
        If there is no such file.
    ValueError
        If it is not a checkpoint of tensors; the message says how to convert it.
    """
    source = Path(path)
    if source.is_dir():
        raise IsADirectoryError(f"expected a checkpoint file, got the directory {source}")
    if not source.exists():
        raise FileNotFoundError(f"expected a checkpoint at {source}, found nothing")
    if source.suffix == ".safetensors":
        try:
            return load_file(source)
        except SafetensorError as error:
            raise ValueError(f"{source}: expected a safetensors file, got: {error}") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle protocol; refused files raise anyway
            content = torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{source}: expected a state dict of tensors, got a pickled object, whose code is not "
            "run: save model.state_dict() instead, or convert it to safetensors if you trust it"
        ) from error
    except (RuntimeError, EOFError, OSError, zipfile.BadZipFile, ValueError, KeyError) as error:
        raise ValueError(
            f"{source}: expected a torch or safetensors checkpoint, got an unreadable or truncated "
            f"file ({type(error).__name__})"
        ) from error
    for key in _NESTED_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()
    ):
        raise ValueError(
            f"{source}: expected a state dict (names to tensors), got {type(content).__name__}"
        )
    return dict(content)


def state_of(network: Network) -> dict[str, Tensor]:
    """Return the detached tensors of a module, a state dict, or a checkpoint on disk.

    Raises
    ------
    TypeError
        If `network` is none of these, or holds a tensor without values to read.
    """
    if isinstance(network, nn.Module):
        state: Mapping[str, Any] = network.state_dict()
    elif isinstance(network, Mapping):
        state = network
    elif isinstance(network, (str, os.PathLike)):
        state = load_state_dict(network)
    else:
        raise TypeError(
            "expected a Module, a state dict or a path to a checkpoint, got "
            f"{type(network).__name__}"
        )
    result = {}
    for name, tensor in state.items():
        if name.endswith("_extra_state"):
            continue
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
        check_readable(name, tensor)
        result[name] = tensor.detach() if tensor.requires_grad else tensor
    return result


def save_state_dict(state_dict: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Write tensors to a safetensors file, or a torch file for other suffixes, whole or not at all.

    Parameters
    ----------
    state_dict : Mapping[str, Tensor]
        Tensors that are one under two names are written once in a torch file and copied in a
        safetensors file, which has no aliases.
    path : path
        What it held is replaced only when all has been written.
    """
    target = Path(path)
    tensors = {name: tensor.detach().cpu() for name, tensor in state_dict.items()}
    with replacing(target) as temporary:
        if target.suffix == ".safetensors":
            copies = {n: t.clone(memory_format=torch.contiguous_format) for n, t in tensors.items()}
            save_file(copies, temporary)
        else:
            torch.save(tensors, temporary)
