"""``python -m bench gpu``: the CUDA paths against torch, on the device at hand, in under 8 minutes.

The ceilings come first (copy bandwidth, matrix products), then every case against the best plain
torch formulation, the correlation also against Triton, each with its error against float64. Every
time is the median of repeats between device events, after warming up, on random inputs that rotate
through more memory than the second-level cache holds. Exit status 3: no CUDA device.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
import traceback
from typing import Any

import torch
from lmc_fast import cuda_available

from bench.record import store

NO_DEVICE = 3
SECONDS = 450
SECTIONS = ("correlation", "grid", "assignment")

# What is accepted and aimed at: how many times faster than the named rival.
TARGETS = {
    "A1": (4.0, 10.0),
    "A2": (3.0, 4.7),
    "A3": (3.0, 4.2),
    "A4": (3.5, 4.8),
    "A5": (1.5, 2.0),
    "B1": (6.0, 12.0),
    "B2": (3.0, 5.0),
    "B3": (3.0, 5.0),
    "B4": (2.0, 4.0),
    "C1": (1.0, 5.0),
}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench gpu", description=__doc__)
    parser.add_argument("--device", default="cuda:0", help="which device (default: cuda:0)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="stop new cases after this")
    parser.add_argument("--only", choices=SECTIONS, nargs="+", default=SECTIONS)
    options = parser.parse_args(argv)
    if not cuda_available():
        print("no CUDA device: nothing was measured", file=sys.stderr)
        return NO_DEVICE
    return run(torch.device(options.device), options.seconds, options.only)


def run(device: torch.device, seconds: float, sections: tuple[str, ...]) -> int:
    """Measure, print the table, store the file; 1 if a case failed or was not reached."""
    from bench import gpu_assignment, gpu_correlation, gpu_grid
    from bench.gpu_timing import Timer, ceilings

    modules = {"correlation": gpu_correlation, "grid": gpu_grid, "assignment": gpu_assignment}
    torch.cuda.set_device(device)
    torch.manual_seed(0)
    begin = time.monotonic()
    timer = Timer(device, begin + seconds)
    tops = ceilings(timer)
    for name, value in tops.items():
        print(f"{name:32} {value:10.3g}")
    rows: list[dict[str, Any]] = []
    unreached: list[str] = []
    for section in sections:
        for case in modules[section].cases(timer):
            if timer.left() < 0:
                unreached.append(case.name)
                continue
            try:
                rows.append(case.run())
            except Exception as error:
                # One broken case must not cost the rest of a lease.
                traceback.print_exc()
                rows.append({"id": case.name, "failed": f"{type(error).__name__}: {error}"})
            torch.cuda.empty_cache()
            print(line(rows[-1]), flush=True)
    properties = torch.cuda.get_device_properties(device)
    path = store(
        f"gpu-{slug(properties.name)}-{time.strftime('%Y-%m-%d')}",
        {
            "device": properties.name,
            "cuda": torch.version.cuda,
            "multiprocessors": properties.multi_processor_count,
            "seconds": time.monotonic() - begin,
            "ceilings": tops,
            "rows": rows,
            "not reached": unreached,
        },
    )
    print(f"{path.name}: {len(rows)} rows, {len(unreached)} cases not reached")
    return int(bool(unreached) or any("failed" in row for row in rows))


def slug(name: str) -> str:
    """A device's name as part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def speedup(row: dict[str, Any]) -> float | None:
    """How many times faster than the rival that the row's target names; None without one."""
    if row["id"].startswith("A") and "torch float32 s" in row:
        rival = row["torch tf32 s" if row["id"] == "A5" else "torch float32 s"]
        return float(rival / row["lmc_fast s"])
    loops = [value for key, value in row.items() if key.startswith("torch loop")]
    if loops:
        return float(min(loops) / row["lmc_fast s"])
    if row["id"] == "C1" and "cpu s" in row:
        return float(row["cpu s"] / row["device s"])
    return None


def line(row: dict[str, Any]) -> str:
    """One row of the printed table: the case, its figures, and how it stands to its target."""
    figures = [
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in row.items()
        if key != "id"
    ]
    text = f"{row['id']:6} " + ", ".join(figures)
    times = speedup(row)
    if times is None or row["id"] not in TARGETS:
        return text
    accepted, aimed = TARGETS[row["id"]]
    verdict = "aim" if times >= aimed else "accepted" if times >= accepted else "MISSED"
    return f"{text} -> {times:.2f}x ({verdict}: {accepted:g}x, {aimed:g}x)"
