"""What a study is: a claim, a run, a table of published and own numbers, and its files."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch

from lmc_fast.datasets import Dataset, load_cifar10, load_mnist
from lmc_fast.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Scale = Literal["quick", "default", "full"]
T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """One line of a study's table.

    Attributes
    ----------
    quantity
        What is measured, with its setting: "w=64 test loss".
    ours
        The measured value.
    published
        The value of the source; None where it gives none.
    spread
        Standard error or the like of `ours`, named in the study's settings.
    """

    quantity: str
    ours: float
    published: float | None = None
    spread: float | None = None

    @property
    def difference(self) -> float | None:
        """`ours` minus `published`."""
        return None if self.published is None else self.ours - self.published


@dataclass(frozen=True)
class Check:
    """A statement that the numbers bear out or not: what was asked, what was found."""

    statement: str
    holds: bool
    found: str


@dataclass(frozen=True)
class Result:
    """What a study found; `details` is JSON-able and holds what the table leaves out."""

    rows: Sequence[Row]
    checks: Sequence[Check]
    settings: dict[str, Any]
    details: dict[str, Any]
    figure: Figure
    notes: str = ""


@dataclass(frozen=True)
class Study:
    """One reproducible claim.

    `run` gets a `Context`; `data` names the data set it reads, if any.
    """

    name: str
    claim: str
    source: str
    run: Callable[[Context], Result]
    data: str | None = None


@dataclass(frozen=True)
class Context:
    """How a study runs: scale, seed, where data and finished parts are, and whether bars show."""

    name: str
    scale: Scale
    seed: int
    out: Path
    data_dir: Path | None = None
    device: str = "cpu"
    """Where CIFAR-10 lies, and so where the networks on it train and are evaluated."""
    progress: bool = False
    """Whether parts and long loops report on stderr: bars on a terminal, lines elsewhere."""
    spent: list[float] = field(default_factory=list)
    """Seconds that the parts read from disk took when they were made."""

    def choose(self, *, quick: T, default: T, full: T | None = None) -> T:
        """Return the setting of this scale; `full` is `default` where not given."""
        if self.scale == "quick":
            return quick
        return default if self.scale == "default" or full is None else full

    def part(self, key: str, settings: object, make: Callable[[], T]) -> T:
        """Return a finished part from disk, or make it and store it.

        Parts are tensors, numbers, strings and containers of them. Studies with the same output
        folder share them; those of another seed, scale or `settings`, told apart by their repr,
        are kept apart.
        """
        digest = hashlib.sha256(repr(settings).encode()).hexdigest()[:12]
        folder = self.out / "parts" / f"{self.scale}-seed{self.seed}"
        path = folder / f"{key}-{digest}.pt"
        if path.is_file():
            try:
                stored = torch.load(path, map_location=self.device, weights_only=True)
                self.spent.append(stored["seconds"])
                self._say(f"{key}: read back")
                return stored["value"]  # type: ignore[no-any-return]
            except Exception as error:
                raise ValueError(
                    f"{path}: the stored part cannot be read ({error}); delete that file"
                ) from error
        start = time.perf_counter()
        made = make()
        stored = {"value": made, "seconds": time.perf_counter() - start}
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            torch.save(stored, partial)
        self._say(f"{key}: done in {stored['seconds']:.0f} s")
        return made

    def _say(self, message: str) -> None:
        if self.progress:
            print(f"{self.name}: {message}", file=sys.stderr)

    def mnist(self, train: int | None = None, test: int | None = None) -> Dataset:
        """MNIST from the data directory, downloaded into it where the network allows."""
        return load_mnist(self._data_dir("MNIST/raw/*.gz"), download=True).take(train, test)

    def cifar10(self, train: int | None = None, test: int | None = None) -> Dataset:
        """CIFAR-10 from the data directory, downloaded into it where the network allows."""
        folder = self._data_dir("cifar10-jpeg.tar.xz or cifar-10-batches-py/")
        return load_cifar10(folder, train=train, test=test, download=True).to(self.device)

    def _data_dir(self, content: str) -> Path:
        if self.data_dir is None:
            raise ValueError(
                f"study {self.name!r}: expected --data-dir, a folder with {content}, got none"
            )
        return self.data_dir


def run_study(study: Study, context: Context, *, command: str) -> dict[str, Any]:
    """Run a study, write ``NAME.json`` and ``NAME.png`` to `context.out` and return the record."""
    start = time.perf_counter()
    result = study.run(context)
    record: dict[str, Any] = _plain(
        {
            "study": study.name,
            "claim": study.claim,
            "source": study.source,
            "scale": context.scale,
            "seed": context.seed,
            "command": command,
            "seconds": round(time.perf_counter() - start + sum(context.spent), 1),
            "environment": {
                "cpu": _cpu(),
                "threads": torch.get_num_threads(),
                "device": context.device,
                "python": platform.python_version(),
                "torch": str(torch.__version__),
            },
            "settings": result.settings,
            "rows": [asdict(row) | {"difference": row.difference} for row in result.rows],
            "checks": [asdict(check) for check in result.checks],
            "notes": result.notes,
            "details": result.details,
        }
    )
    context.out.mkdir(parents=True, exist_ok=True)
    with replacing(context.out / f"{study.name}.png") as partial:
        result.figure.savefig(partial, dpi=120)
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in record.items()]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    with replacing(context.out / f"{study.name}.json") as partial:
        partial.write_text(text)
    return record


def table(record: dict[str, Any]) -> str:
    """Return a record's table as Markdown: quantity, published, ours, difference."""
    lines = ["| quantity | published | ours | difference |", "|---|---:|---:|---:|"]
    for row in record["rows"]:
        ours = _number(row["ours"])
        if row["spread"] is not None:
            ours += f" ± {_number(row['spread'])}"
        cells = (row["quantity"], _number(row["published"]), ours, _number(row["difference"]))
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        f"\n{'holds' if check['holds'] else 'does not hold'}: {check['statement']}: "
        f"{check['found']}"
        for check in record["checks"]
    ]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _plain(value: Any) -> Any:
    """Return JSON-able data with numbers of seven significant digits."""
    if isinstance(value, torch.Tensor):
        value = value.tolist()
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
