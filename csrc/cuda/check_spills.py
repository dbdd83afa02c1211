"""Compile every kernel for every architecture, print what it takes, fail on spilled registers.

    python csrc/cuda/check_spills.py [--nvcc NVCC] [--output REPORT.json] [ARCHITECTURE ...]

Exits with 0 where nvcc is missing (and says so), with 1 on a spill or a compiler error.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FOLDER = Path(__file__).parent
ARCHITECTURES = ("80", "86", "89", "90", "100", "120")
ENTRY = re.compile(
    r"Compiling entry function '(?P<kernel>\w+)' for '(?P<target>sm_\w+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers",
    re.DOTALL,
)


def compile_source(nvcc: str, source: Path, architectures: tuple[str, ...]) -> tuple[str, float]:
    """The assembler's report on one source, and the seconds it took."""
    start = time.perf_counter()
    codes = ",".join(f"sm_{architecture}" for architecture in architectures)
    with tempfile.TemporaryDirectory() as folder:
        command = [nvcc, "-std=c++17", "-fatbin", "-Xptxas", "-v", "--threads", "2"]
        command += ["-gencode", f"arch=compute_80,code=[{codes}]"]
        command += ["-o", f"{folder}/{source.stem}.fatbin", str(source)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        sys.exit(f"{source.name} does not compile:\n{run.stderr}")
    return run.stderr, time.perf_counter() - start


def main() -> int:
    """Print the table of registers and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("architectures", nargs="*", default=ARCHITECTURES)
    parser.add_argument("--nvcc", default=shutil.which("nvcc"))
    parser.add_argument("--output", type=Path, help="also write the table as JSON")
    arguments = parser.parse_args()
    if arguments.nvcc is None:
        print("no nvcc: the kernels were not compiled")
        return 0
    sources = sorted(FOLDER.glob("*.cu"))
    architectures = tuple(arguments.architectures)
    with ThreadPoolExecutor(2) as pool:
        reports = list(
            pool.map(lambda s: compile_source(arguments.nvcc, s, architectures), sources)
        )
    found = [match.groupdict() for report, _ in reports for match in ENTRY.finditer(report)]
    kernels = sorted({entry["kernel"] for entry in found})
    table = {(entry["kernel"], entry["target"]): entry for entry in found}
    width = max(map(len, kernels))
    print("registers (+ bytes spilled)".ljust(width), *(f"sm_{a}".rjust(7) for a in architectures))
    spilled = missing = 0
    for kernel in kernels:
        cells = []
        for architecture in architectures:
            entry = table.get((kernel, f"sm_{architecture}"))
            if entry is None:
                missing += 1
                cells.append("missing")
                continue
            spill = int(entry["stores"]) + int(entry["loads"])
            spilled += spill > 0
            cells.append(f"{entry['registers']:>7}" + (f"+{spill}" if spill else ""))
        print(kernel.ljust(width), *cells)
    for source, (_, seconds) in zip(sources, reports, strict=True):
        print(f"{source.name}: {seconds:.1f} s for {len(architectures)} architectures")
    if arguments.output:
        version = subprocess.run(
            [arguments.nvcc, "--version"], capture_output=True, text=True, check=True
        )
        report = {
            "command": "python csrc/cuda/check_spills.py --output REPORT",
            "compiler": version.stdout.splitlines()[-1],
            "kernels": found,
        }
        arguments.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"{len(kernels)} kernels: {spilled} spill, {missing} missing")
    return int(bool(spilled or missing or not found))


if __name__ == "__main__":
    sys.exit(main())
