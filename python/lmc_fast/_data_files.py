"""Readers of the files that data sets come in, with errors that name the file."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import os
import pickle
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from lmc_fast.errors import DataFileError
from lmc_fast.files import replacing
from lmc_fast.progress import progress_bar

_CIFAR10_CLASSES = (
    "airplane automobile bird cat deer dog frog horse ship truck".split()  # noqa: SIM905
)


def read_idx(path: Path, rank: int) -> np.ndarray[Any, Any]:
    """Read one IDX file of unsigned bytes (http://yann.lecun.com/exdb/mnist), gzipped or not."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, OSError, zlib.error) as error:
        raise DataFileError(
            f"{path}: expected a gzip-compressed IDX file, got one that does not decompress "
            f"({error}); fetch it again"
        ) from error
    magic = bytes((0, 0, 8, rank))
    header = 4 + 4 * rank
    if len(raw) < header or raw[:4] != magic:
        raise DataFileError(
            f"{path}: expected an IDX header {magic.hex()} (unsigned bytes, {rank} axes), "
            f"got {raw[:4].hex() or 'an empty file'}; fetch it again"
        )
    shape = tuple(int(n) for n in np.frombuffer(raw, ">u4", rank, 4))
    if len(raw) - header != np.prod(shape, dtype=np.int64):
        raise DataFileError(
            f"{path}: expected {np.prod(shape, dtype=np.int64)} bytes after the header for shape "
            f"{shape}, got {len(raw) - header}; fetch it again"
        )
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


def check_labels(path: Path, labels: np.ndarray[Any, Any], images: int) -> np.ndarray[Any, Any]:
    if len(labels) != images:
        raise DataFileError(f"{path}: expected {images} labels, one an image, got {len(labels)}")
    if labels.size and int(labels.max()) > 9:
        raise DataFileError(f"{path}: expected labels 0 to 9, got {int(labels.max())}")
    return labels.astype(np.int64)


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickle numpy arrays and plain containers; no other code runs."""

    _ALLOWED = frozenset({"_reconstruct", "ndarray", "dtype", "scalar", "encode"})

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] in ("numpy", "_codecs") and name in self._ALLOWED:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a data file")


def read_cifar10_batches(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    parts = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
    for part, names in parts.items():
        pixels, labels = [], []
        for name in names:
            path = folder / name
            try:
                entry = _ArrayUnpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
                data = np.asarray(entry[b"data"], np.uint8).reshape(-1, 3, 32, 32)
            except Exception as error:
                raise DataFileError(
                    f"{path}: expected a CIFAR-10 python batch, got a file that cannot be read as "
                    f"one ({error}); fetch it again"
                ) from error
            pixels.append(data)
            labels.append(check_labels(path, np.asarray(entry[b"labels"]), len(data)))
        arrays[f"{part}_x"] = np.concatenate(pixels)
        arrays[f"{part}_y"] = np.concatenate(labels)
    return arrays


def cached_cifar10_jpeg(
    archive: Path, cache_dir: str | os.PathLike[str] | None
) -> dict[str, np.ndarray[Any, Any]]:
    if cache_dir is None:
        cache_dir = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lmc_fast"
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()[:16]
    cache = Path(cache_dir) / f"cifar10-jpeg-{digest}.npz"
    keys = ("train_x", "train_y", "test_x", "test_y")
    if cache.is_file():
        try:
            with np.load(cache) as stored:
                return {key: stored[key] for key in keys}
        except (OSError, ValueError, KeyError, EOFError, zlib.error) as error:
            raise DataFileError(
                f"{cache}: the cached array cannot be read ({error}); delete that file"
            ) from error
    arrays = read_cifar10_jpeg(archive)
    cache.parent.mkdir(parents=True, exist_ok=True)
    with replacing(cache) as partial:
        np.savez(partial, **arrays)  # type: ignore[arg-type]
    return arrays


def read_cifar10_jpeg(archive: Path) -> dict[str, np.ndarray[Any, Any]]:
    from PIL import Image, UnidentifiedImageError

    found: dict[str, list[tuple[str, int, np.ndarray[Any, Any]]]] = {"train": [], "test": []}
    try:
        with (
            tarfile.open(archive, "r|xz") as tar,
            progress_bar(show=True, desc=archive.name, unit="image", total=60_000) as bar,
        ):
            for member in tar:
                if not (member.isfile() and member.name.endswith(".jpg")):
                    continue
                part, label, number = Path(member.name).parts[-3:]
                content = tar.extractfile(member)
                if part not in found or label not in _CIFAR10_CLASSES or content is None:
                    raise DataFileError(
                        f"{archive}: expected members train|test/<class>/NNNN.jpg, "
                        f"got {member.name}"
                    )
                image = np.asarray(Image.open(io.BytesIO(content.read())).convert("RGB"))
                if image.shape != (32, 32, 3):
                    raise DataFileError(
                        f"{archive}: {member.name}: expected 32 x 32 pixels, got "
                        f"{image.shape[0]} x {image.shape[1]}"
                    )
                found[part].append((number, _CIFAR10_CLASSES.index(label), image))
                bar.update()
    except (tarfile.TarError, lzma.LZMAError, EOFError, UnidentifiedImageError, OSError) as error:
        raise DataFileError(
            f"{archive}: expected a tar.xz of JPEG files, got one that cannot be read ({error}); "
            "fetch it again"
        ) from error
    arrays = {}
    for part, entries in found.items():
        if not entries:
            raise DataFileError(f"{archive}: expected {part}/<class>/NNNN.jpg, found none")
        entries.sort(key=lambda entry: entry[:2])
        arrays[f"{part}_x"] = np.stack([image for _, _, image in entries]).transpose(0, 3, 1, 2)
        arrays[f"{part}_y"] = np.array([label for _, label, _ in entries], np.uint8)
    return arrays
