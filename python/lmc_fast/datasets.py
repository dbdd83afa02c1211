"""Data sets as whole tensors: digits and Moons built in, MNIST and CIFAR-10 read from files."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmc_fast._data_files import (
    cached_cifar10_jpeg,
    check_labels,
    read_cifar10_batches,
    read_idx,
)
from lmc_fast.errors import DataFileError

MNIST_MEAN, MNIST_STD = 0.1307, 0.3081
CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)

_MNIST_FILES = {
    "train_x": "train-images-idx3-ubyte",
    "train_y": "train-labels-idx1-ubyte",
    "test_x": "t10k-images-idx3-ubyte",
    "test_y": "t10k-labels-idx1-ubyte",
}
_CIFAR10_ARCHIVE = "cifar10-jpeg.tar.xz"
_CIFAR10_FOLDER = "cifar-10-batches-py"


@dataclass(frozen=True)
class Dataset:
    """A classification data set in memory.

    `train_x` and `test_x` are float32 of shape (examples, ...), normalised; `train_y` and `test_y`
    are int64 class indices below `classes`.
    """

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    name: str
    classes: int

    def to(self, device: str | torch.device) -> Dataset:
        """Return the data set with all tensors on `device`."""
        return replace(
            self,
            train_x=self.train_x.to(device),
            train_y=self.train_y.to(device),
            test_x=self.test_x.to(device),
            test_y=self.test_y.to(device),
        )

    def take(self, train: int | None = None, test: int | None = None) -> Dataset:
        """Return the first `train` and `test` examples; None keeps all."""
        return replace(
            self,
            train_x=self.train_x[:train],
            train_y=self.train_y[:train],
            test_x=self.test_x[:test],
            test_y=self.test_y[:test],
        )


def load_digits(*, seed: int = 0) -> Dataset:
    """Scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, shape (n, 1, 8, 8).

    The pixels, 0 to 16, are normalised with the mean and standard deviation of all training
    pixels. One fifth, 360 images drawn with `seed` and the same share of each class, is the test
    set.
    """
    from sklearn.datasets import load_digits as sklearn_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = sklearn_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        pixels.astype(np.float32), labels, test_size=0.2, random_state=seed, stratify=labels
    )
    mean, std = float(train_x.mean()), float(train_x.std())

    def images(x: np.ndarray[Any, Any]) -> Tensor:
        return torch.from_numpy((x - mean) / std).reshape(-1, 1, 8, 8)

    return Dataset(
        images(train_x),
        torch.from_numpy(train_y.astype(np.int64)),
        images(test_x),
        torch.from_numpy(test_y.astype(np.int64)),
        "digits",
        10,
    )


def make_moons(n: int = 1024, *, noise: float = 0.1, seed: int = 0) -> Dataset:
    """Two interleaved half circles in the plane: `n` points, half of them test points.

    Both coordinates are standardised with the mean and standard deviation of the training points.
    """
    from sklearn.datasets import make_moons as sklearn_moons

    if n < 4:
        raise ValueError(f"n: expected at least 4 points, got {n}")
    points, labels = sklearn_moons(n, noise=noise, random_state=seed)
    x = torch.from_numpy(points.astype(np.float32))
    y = torch.from_numpy(labels.astype(np.int64))
    train = n // 2
    x = (x - x[:train].mean(0)) / x[:train].std(0)
    return Dataset(x[:train], y[:train], x[train:], y[train:], "moons", 2)


def load_mnist(data_dir: str | os.PathLike[str], *, download: bool = False) -> Dataset:
    """MNIST from its four IDX files, shape (n, 1, 28, 28).

    The files, gzipped or not, are looked for in ``data_dir/MNIST/raw`` (torchvision's layout) and
    in `data_dir` itself. Pixels are divided by 255, then normalised with mean 0.1307 and standard
    deviation 0.3081. With `download` missing files are fetched by torchvision into `data_dir`.

    Raises
    ------
    DataFileError
        A file is missing, truncated or not what its name says; the message has its path.
    """
    root = Path(data_dir)

    def find(stem: str) -> Path | None:
        places = (root / "MNIST" / "raw", root)
        options = [place / name for place in places for name in (f"{stem}.gz", stem)]
        return next((path for path in options if path.is_file()), None)

    if download and not all(map(find, _MNIST_FILES.values())):
        _torchvision_download("MNIST", root)
    arrays: dict[str, Tensor] = {}
    for part in ("train", "test"):
        paths = {}
        for kind in ("x", "y"):
            stem = _MNIST_FILES[f"{part}_{kind}"]
            path = find(stem)
            if path is None:
                raise DataFileError(
                    f"{root / 'MNIST' / 'raw' / stem}.gz: no such file; give the folder that holds "
                    "MNIST/raw as the data directory"
                )
            paths[kind] = path
        images = read_idx(paths["x"], 3)
        if images.shape[1:] != (28, 28):
            raise DataFileError(f"{paths['x']}: expected images of 28 x 28, got {images.shape[1:]}")
        pixels = torch.from_numpy(images.astype(np.float32)).unsqueeze(1)
        arrays[f"{part}_x"] = (pixels / 255 - MNIST_MEAN) / MNIST_STD
        labels = check_labels(paths["y"], read_idx(paths["y"], 1), len(images))
        arrays[f"{part}_y"] = torch.from_numpy(labels)
    return Dataset(**arrays, name="MNIST", classes=10)


def load_cifar10(
    data_dir: str | os.PathLike[str],
    *,
    train: int | None = None,
    test: int | None = None,
    download: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Dataset:
    """CIFAR-10, shape (n, 3, 32, 32), normalised by channel; the first `train` and `test` images.

    Read from torchvision's ``cifar-10-batches-py`` in `data_dir`, else from ``cifar10-jpeg.tar.xz``
    there, a tar of ``train/<class>/NNNN.jpg`` and ``test/<class>/NNNN.jpg`` that is streamed once
    into one uint8 array and cached in `cache_dir` (``lmc_fast`` in the user's cache folder). JPEG
    images lose detail, so that set is named "CIFAR-10 (JPEG)"; its classes are interleaved, so that
    a prefix is balanced.

    Raises
    ------
    DataFileError
        No source is there, or it is truncated or not what its name says.
    """
    root = Path(data_dir)
    batches, archive = root / _CIFAR10_FOLDER, root / _CIFAR10_ARCHIVE
    if download and not batches.is_dir() and not archive.is_file():
        _torchvision_download("CIFAR10", root)
    if batches.is_dir():
        name, arrays = "CIFAR-10", read_cifar10_batches(batches)
    elif archive.is_file():
        name, arrays = "CIFAR-10 (JPEG)", cached_cifar10_jpeg(archive, cache_dir)
    else:
        raise DataFileError(
            f"{root}: expected {_CIFAR10_FOLDER}/ or {_CIFAR10_ARCHIVE} in it, found neither"
        )
    mean = torch.tensor(CIFAR10_MEAN).view(1, 3, 1, 1)
    std = torch.tensor(CIFAR10_STD).view(1, 3, 1, 1)

    def images(key: str, count: int | None) -> Tensor:
        return torch.from_numpy(arrays[key][:count]).float().div_(255).sub_(mean).div_(std)

    return Dataset(
        images("train_x", train),
        torch.from_numpy(arrays["train_y"][:train].astype(np.int64)),
        images("test_x", test),
        torch.from_numpy(arrays["test_y"][:test].astype(np.int64)),
        name,
        10,
    )


def load_dataset(
    name: str, data_dir: str | os.PathLike[str] | None = None, *, seed: int = 0
) -> Dataset:
    """Load "digits", "moons", "mnist" or "cifar10" by name; the last two need `data_dir`."""
    if name == "digits":
        return load_digits(seed=seed)
    if name == "moons":
        return make_moons(seed=seed)
    if name not in ("mnist", "cifar10"):
        raise ValueError(
            f"data set: expected 'digits', 'moons', 'mnist' or 'cifar10', got {name!r}"
        )
    if data_dir is None:
        raise ValueError(f"data set {name!r}: expected a data directory, got none; give --data-dir")
    return load_mnist(data_dir) if name == "mnist" else load_cifar10(data_dir)


def _torchvision_download(name: str, root: Path) -> None:
    try:
        from torchvision import datasets
    except ImportError as error:
        raise DataFileError(
            f"{root}: no {name} files there, and downloading needs torchvision, which is not "
            "installed; install it or give another data directory"
        ) from error
    try:
        getattr(datasets, name)(str(root), download=True)
    except (OSError, RuntimeError) as error:
        raise DataFileError(f"{root}: torchvision could not download {name}: {error}") from error
