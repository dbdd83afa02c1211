import gzip
import io
import pickle
import shutil
import struct
import sys
import tarfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from lmc_fast.datasets import load_cifar10, load_dataset, load_digits, load_mnist, make_moons
from lmc_fast.errors import DataFileError
from PIL import Image

STEMS = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")


def idx(array: np.ndarray) -> bytes:
    header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for stem in STEMS:
        n = 30 if stem.startswith("train") else 10
        shape = (n, 28, 28) if "images" in stem else (n,)
        array = rng.integers(0, 256 if "images" in stem else 10, shape)
        (folder / f"{stem}-ubyte.gz").write_bytes(gzip.compress(idx(array)))
    return tmp_path


def test_digits_split_is_disjoint_normalised_and_decided_by_the_seed():
    data = load_digits()
    assert data.train_x.shape == (1437, 1, 8, 8)
    assert data.test_x.shape == (360, 1, 8, 8)
    assert abs(float(data.train_x.mean())) < 1e-4
    assert float(data.train_x.std()) == pytest.approx(1, abs=1e-3)
    assert torch.equal(load_digits().test_x, data.test_x)
    assert not torch.equal(load_digits(seed=1).test_x, data.test_x)


def test_moons_are_standardised_and_balanced():
    data = make_moons(1000, seed=3)
    assert data.train_x.shape == data.test_x.shape == (500, 2)
    torch.testing.assert_close(data.train_x.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    assert 0.4 < float(data.train_y.float().mean()) < 0.6
    with pytest.raises(ValueError, match="at least 4"):
        make_moons(2)


def test_mnist_reads_gzipped_and_plain_files(mnist: Path):
    zipped = load_mnist(mnist)
    for path in (mnist / "MNIST" / "raw").iterdir():
        (mnist / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    plain = load_mnist(mnist)
    assert torch.equal(zipped.train_x, plain.train_x)
    assert torch.equal(zipped.test_y, plain.test_y)
    assert float(zipped.train_x.min()) == pytest.approx(-0.1307 / 0.3081, abs=1e-4)


def test_mnist_missing_file_is_named(mnist: Path):
    (mnist / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataFileError, match="t10k-labels-idx1-ubyte"):
        load_mnist(mnist)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: gzip.compress(raw)[:-20], "decompress"),
        (lambda raw: b"not gzip", "decompress"),
        (lambda raw: gzip.compress(b""), "empty file"),
        (lambda raw: gzip.compress(b"\x00\x00\x0d" + raw[3:]), "IDX header"),
        (lambda raw: gzip.compress(raw[:-1]), "bytes after the header"),
        (lambda raw: gzip.compress(raw + b"x"), "bytes after the header"),
        (lambda raw: gzip.compress(idx(np.zeros((30, 8, 8)))), "28 x 28"),
        (lambda raw: gzip.compress(idx(np.zeros((29, 28, 28)))), "29 labels"),
    ],
)
def test_mnist_damaged_file_is_named(mnist: Path, damage, message):
    path = mnist / "MNIST" / "raw" / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(gzip.decompress(path.read_bytes())))
    with pytest.raises(DataFileError, match=message) as error:
        load_mnist(mnist)
    assert "ubyte.gz" in str(error.value)


def test_mnist_label_above_nine_is_refused(mnist: Path):
    path = mnist / "MNIST" / "raw" / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(idx(np.full(30, 10))))
    with pytest.raises(DataFileError, match="labels 0 to 9"):
        load_mnist(mnist)


class Torchvision(ModuleType):
    """Stands in for torchvision: its MNIST and CIFAR10 write what `files` makes, or fail."""

    def __init__(self, write) -> None:
        super().__init__("torchvision")
        self.datasets = SimpleNamespace(
            MNIST=lambda root, download: write(Path(root)),
            CIFAR10=lambda root, download: write(Path(root)),
        )


def test_missing_files_are_downloaded_by_torchvision(mnist: Path, tmp_path: Path, monkeypatch):
    def write(root: Path) -> None:
        shutil.copytree(mnist / "MNIST", root / "MNIST")

    monkeypatch.setitem(sys.modules, "torchvision", Torchvision(write))
    downloaded = load_mnist(tmp_path / "new", download=True)
    assert torch.equal(downloaded.train_x, load_mnist(mnist).train_x)

    def refuse(root: Path) -> None:
        raise AssertionError("the files are there")

    monkeypatch.setitem(sys.modules, "torchvision", Torchvision(refuse))
    load_mnist(mnist, download=True)


@pytest.mark.parametrize("load", [load_mnist, load_cifar10])
def test_a_failed_download_is_one_line(load, tmp_path: Path, monkeypatch):
    def fail(root: Path) -> None:
        raise RuntimeError("no route to host")

    monkeypatch.setitem(sys.modules, "torchvision", Torchvision(fail))
    with pytest.raises(DataFileError, match=r"could not download \w+: no route to host"):
        load(tmp_path, download=True)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(DataFileError, match="needs torchvision, which is not installed"):
        load(tmp_path, download=True)


def jpeg_archive(path: Path, *, size: int = 32) -> Path:
    rng = np.random.default_rng(1)
    with tarfile.open(path, "w:xz") as tar:
        for part, count in (("train", 3), ("test", 1)):
            for label in ("airplane", "truck"):
                for number in range(count):
                    buffer = io.BytesIO()
                    pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(buffer, "JPEG")
                    info = tarfile.TarInfo(f"{part}/{label}/{number:04d}.jpg")
                    info.size = buffer.tell()
                    buffer.seek(0)
                    tar.addfile(info, buffer)
    return path


def test_cifar10_archive_is_interleaved_cached_and_limited(tmp_path: Path):
    jpeg_archive(tmp_path / "cifar10-jpeg.tar.xz")
    cache = tmp_path / "cache"
    first = load_cifar10(tmp_path, cache_dir=cache)
    assert first.train_y.tolist() == [0, 9, 0, 9, 0, 9]
    assert first.train_x.shape == (6, 3, 32, 32)
    assert "JPEG" in first.name
    (cached,) = cache.iterdir()
    again = load_cifar10(tmp_path, cache_dir=cache, train=2)
    assert torch.equal(again.train_x, first.train_x[:2])
    cached.write_bytes(b"PK broken")
    with pytest.raises(DataFileError, match="delete that file"):
        load_cifar10(tmp_path, cache_dir=cache)


def test_cifar10_damaged_archives_are_named_and_nothing_is_cached(tmp_path: Path):
    cache = tmp_path / "cache"
    path = jpeg_archive(tmp_path / "cifar10-jpeg.tar.xz", size=16)
    with pytest.raises(DataFileError, match="32 x 32"):
        load_cifar10(tmp_path, cache_dir=cache)
    path = jpeg_archive(tmp_path / "cifar10-jpeg.tar.xz")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataFileError, match="cannot be read"):
        load_cifar10(tmp_path, cache_dir=cache)
    path.unlink()
    with pytest.raises(DataFileError, match="found neither"):
        load_cifar10(tmp_path, cache_dir=cache)
    assert not cache.exists()


def test_cifar10_python_batches(tmp_path: Path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        data = np.arange(2 * 3072).reshape(2, 3072).astype(np.uint8)
        (folder / name).write_bytes(pickle.dumps({b"data": data, b"labels": [3, 4]}))
    data = load_cifar10(tmp_path)
    assert data.name == "CIFAR-10"
    assert data.train_x.shape == (10, 3, 32, 32)
    assert data.test_y.tolist() == [3, 4]


class Payload:
    def __reduce__(self):
        return (Path.touch, (Path("pwned"),))


def test_cifar10_batch_with_code_does_not_run_it(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(DataFileError, match="data_batch_1"):
        load_cifar10(tmp_path)
    assert not (tmp_path / "pwned").exists()


def test_load_dataset_needs_a_known_name_and_a_folder():
    assert load_dataset("moons").classes == 2
    with pytest.raises(ValueError, match="expected 'digits'"):
        load_dataset("imagenet")
    with pytest.raises(ValueError, match="--data-dir"):
        load_dataset("mnist")
