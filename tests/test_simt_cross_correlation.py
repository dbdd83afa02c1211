"""The cross-correlation kernels, run on the host by the SIMT shim, against float64."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lmc_fast._cuda import cross_correlation as cuda
from simt_host import HostLauncher, compile_kernels, host_kernels

TOLERANCE = {"float32": 1e-6, "fast": 1e-3, "exact": 2e-14}


@pytest.fixture(scope="module")
def library():
    return host_kernels("cross_correlation")


def poisoned(p, q):
    """Accumulators whose memory the first update must have set or only added to."""
    buffers = cuda.MomentBuffers.zeros(p, q, torch.device("cpu"))
    for normaliser in buffers.normalisers:
        normaliser.fill_(torch.nan)
    return buffers


def rows(x):
    return x.double().movedim(1, -1).reshape(-1, x.shape[1])


def errors(x, y, buffers):
    """Greatest error of the cross block, in correlation, and of squares and means, relative."""
    worst = 0.0
    shifted = []
    for data, normaliser, sums in zip((x, y), buffers.normalisers, buffers.sums, strict=True):
        d = rows(data) - normaliser[0].double()
        norm = d.square().sum(0).sqrt()
        shifted.append((d, norm.clamp_min(1e-300)))
        alive = norm > 0
        relative = (sums[1] - norm.square()).abs()[alive] / norm.square()[alive]
        mean = (sums[0] - d.sum(0)).abs()[alive] / (norm[alive] * len(d) ** 0.5)
        worst = max([worst, *relative.tolist(), *mean.tolist()])
        assert (sums[:, ~alive] == 0).all()
    (dx, nx), (dy, ny) = shifted
    return ((buffers.cross - dx.T @ dy) / nx[:, None] / ny).abs().max().item(), worst


def data(shape, generator, kind="normal"):
    x = torch.randn(shape, generator=generator)
    if kind == "relu":
        x = (x - 0.5).relu()
    if kind == "shifted":
        x = x + 30 * torch.randn(shape[1], generator=generator).view(-1, *[1] * (len(shape) - 2))
    if kind == "scaled":
        exponents = torch.randint(-15, 15, (shape[1],), generator=generator)
        x = x * 10.0 ** exponents.view(-1, *[1] * (len(shape) - 2))
    return x


SHAPES = [
    ((1, 1), (1, 1)),
    ((2, 3), (2, 5)),
    ((129, 16), (129, 16)),
    ((300, 17), (300, 32)),
    ((515, 33), (515, 64)),
    ((260, 130), (260, 12)),
    ((3, 5, 4, 4), (3, 9, 4, 4)),
    ((7, 6, 7, 7), (7, 40, 7, 7)),
    ((2, 72, 5, 5), (2, 65, 5, 5)),
    ((9, 4, 2), (9, 4, 2)),
]


@pytest.mark.parametrize("kind", ["normal", "relu", "shifted", "scaled"])
@pytest.mark.parametrize(("shape_x", "shape_y"), SHAPES)
def test_float32_mode_is_as_good_as_promised_on_ragged_shapes(library, shape_x, shape_y, kind):
    generator = torch.Generator().manual_seed(hash((shape_x, kind)) % 1000)
    x, y = data(shape_x, generator, kind), data(shape_y, generator, kind)
    y = y if x.shape != y.shape else 0.8 * x + 0.6 * y
    buffers = poisoned(x.shape[1], y.shape[1])
    cuda.accumulate([cuda.Update(x, y, buffers, first=True)], launcher=HostLauncher(library))
    assert max(errors(x, y, buffers)) < TOLERANCE["float32"]
    assert buffers.status.item() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(130, 20), (130, 21), (4, 6, 4, 4), (4, 6, 3, 3)])
def test_half_precision_input(library, dtype, shape):
    generator = torch.Generator().manual_seed(1)
    x, y = data(shape, generator).to(dtype), data(shape, generator).to(dtype)
    buffers = poisoned(shape[1], shape[1])
    cuda.accumulate([cuda.Update(x, y, buffers, first=True)], launcher=HostLauncher(library))
    assert max(errors(x, y, buffers)) < TOLERANCE["float32"]


@pytest.mark.parametrize("shape", [(200, 20), (200, 70), (140, 130), (6, 10, 5, 5)])
def test_fast_mode(library, shape):
    generator = torch.Generator().manual_seed(2)
    x, y = data(shape, generator), data(shape, generator)
    buffers = poisoned(shape[1], shape[1])
    cuda.accumulate(
        [cuda.Update(x, y, buffers, first=True)], launcher=HostLauncher(library), mode="fast"
    )
    assert max(errors(x, y, buffers)) < TOLERANCE["fast"]


EXACT_SHAPES = [((1, 1), (1, 2)), ((131, 20), (131, 33)), ((70, 65), (70, 130))]
EXACT_SHAPES += [((3, 5, 3, 3), (3, 9, 3, 3)), ((2, 72, 5, 5), (2, 65, 5, 5))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("shape_x", "shape_y"), EXACT_SHAPES)
def test_exact_mode_on_ragged_shapes(library, shape_x, shape_y, dtype):
    generator = torch.Generator().manual_seed(2)
    x, y = (data(shape, generator, "shifted").to(dtype) for shape in (shape_x, shape_y))
    buffers = poisoned(x.shape[1], y.shape[1])
    mode = "float32" if dtype == torch.float64 else "exact"  # float64 is never rounded
    launcher = RecordingLauncher(library)
    cuda.accumulate([cuda.Update(x, y, buffers, first=True)], launcher=launcher, mode=mode)
    assert launcher.launched[-2:] == ["correlation_exact", "correlation_reduce"]
    assert max(errors(x, y, buffers)) < TOLERANCE["exact"]


def test_float64_beyond_the_range_of_float32(library):
    x = torch.randn(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    x *= torch.tensor([1e60, 1e-60, 1.0], dtype=torch.float64)
    buffers = poisoned(3, 3)
    cuda.accumulate([cuda.Update(x, x, buffers, first=True)], launcher=HostLauncher(library))
    assert max(errors(x, x, buffers)) < TOLERANCE["exact"]


def test_wide_layers_of_exact_mode_are_multiplied_by_torch(library, monkeypatch):
    monkeypatch.setattr(cuda, "WIDE", 30)
    generator = torch.Generator().manual_seed(4)
    updates = []
    for channels in (40, 20):
        x, y = data((4, channels, 3, 3), generator), data((4, channels, 3, 3), generator)
        updates.append(cuda.Update(x, y, poisoned(channels, channels), first=True))
    launcher = RecordingLauncher(library)
    cuda.accumulate(updates, launcher=launcher, mode="exact")
    assert launcher.launched.count("correlation_exact") == 1
    for x, y, buffers, _ in updates:
        assert max(errors(x, y, buffers)) < TOLERANCE["exact"]


def test_memory_orders_are_read_in_place_and_agree(library):
    generator = torch.Generator().manual_seed(3)
    x, y = data((4, 12, 4, 4), generator), data((4, 12, 4, 4), generator)
    wide = torch.zeros(4, 15, 4, 4)
    wide[:, :12] = x
    flat_x, flat_y = rows(x).float(), rows(y).float()
    views = [
        (x, y),
        (x.contiguous(memory_format=torch.channels_last), y),
        tuple(t.contiguous(memory_format=torch.channels_last) for t in (x, y)),
        (wide[:, :12], y),
        (flat_x, flat_y),
        (flat_x.T.contiguous().T, flat_y),
        (torch.cat((flat_x, flat_x), 1)[:, 12:], flat_y),
    ]
    for view_x, view_y in views:
        buffers = poisoned(12, 12)
        cuda.accumulate(
            [cuda.Update(view_x, view_y, buffers, first=True)], launcher=HostLauncher(library)
        )
        assert max(errors(view_x, view_y, buffers)) < TOLERANCE["float32"]


def test_all_layers_of_a_network_go_in_one_launch(library):
    generator = torch.Generator().manual_seed(4)
    shapes = [(40, 3 + 5 * i % 29) for i in range(35)] + [(40, 50), (40, 70), (40, 129)]
    shapes += [(3, 7, 5, 5), (2, 66, 4, 4)]
    pairs = [(data(s, generator), data(s, generator)) for s in shapes]
    pairs[3] = tuple(t.half() for t in pairs[3])
    described = ["correlation_describe"] * 2  # 40 layers, 28 to a description
    for mode, products in (("float32", "float32_128"), ("exact", "exact")):
        together = [cuda.Update(x, y, poisoned(x.shape[1], y.shape[1]), True) for x, y in pairs]
        launcher = RecordingLauncher(library)
        cuda.accumulate(together, launcher=launcher, mode=mode)
        assert launcher.launched == [
            *described,
            "correlation_prepare",
            *described,
            f"correlation_{products}",
            "correlation_reduce",
        ]
        for x, y, buffers, _ in together:
            assert max(errors(x, y, buffers)) < TOLERANCE[mode]


def test_layers_that_begin_and_layers_that_go_on_share_the_launches(library):
    generator = torch.Generator().manual_seed(11)
    x, y = data((700, 9), generator), data((700, 9), generator)
    held = [poisoned(9, 9), poisoned(9, 9)]
    first = cuda.Update(x[:300], y[:300], held[0], first=True)
    cuda.accumulate([first], launcher=HostLauncher(library))
    launcher = RecordingLauncher(library)
    rest = [cuda.Update(x[300:], y[300:], held[0], False), cuda.Update(x, y, held[1], True)]
    cuda.accumulate(rest, launcher=launcher)
    assert launcher.launched.count("correlation_float32_64") == 1
    assert launcher.launched.count("correlation_prepare") == 1
    assert all(max(errors(x, y, buffers)) < TOLERANCE["float32"] for buffers in held)


class RecordingLauncher(HostLauncher):
    def __init__(self, library):
        super().__init__(library)
        self.launched = []

    def launch(self, kernel, *arguments):
        self.launched.append(kernel)
        super().launch(kernel, *arguments)


def test_more_rows_than_32_bits_count_are_cut(monkeypatch):
    rows = 3 << 30
    x = torch.zeros(1, 4).expand(rows, 4)
    counted = {"correlation_prepare": 0, "correlation_float32_64": 0}
    described = []

    class Counting:
        multiprocessors = 132

        def launch(self, kernel, grid, threads, shared_bytes, params):
            if kernel == "correlation_describe":
                described[:] = [params.layer[k].rows for k in range(params.count)]
            elif kernel in counted:
                assert min(described) > 0
                counted[kernel] += sum(described)

    monkeypatch.setattr(cuda, "_WORKSPACE_BYTES", 1 << 40)
    monkeypatch.setattr(cuda.torch, "empty", lambda *size, **options: torch.zeros(1))
    cuda.accumulate([cuda.Update(x, x, poisoned(4, 4), first=True)], launcher=Counting())
    assert counted == {"correlation_prepare": 1 << 30, "correlation_float32_64": rows}


@pytest.mark.parametrize("mode", ["float32", "exact"])
@pytest.mark.parametrize("shape", [(3000, 20), (60, 5, 7, 7)])
def test_slabs_pieces_and_updates_add_up(library, shape, mode, monkeypatch):
    generator = torch.Generator().manual_seed(5)
    x, y = data(shape, generator), data(shape, generator)
    buffers = poisoned(shape[1], shape[1])
    monkeypatch.setattr(cuda, "_WORKSPACE_BYTES", 1)
    third = shape[0] // 3
    for part in range(3):
        chosen = slice(part * third, shape[0] if part == 2 else (part + 1) * third)
        layers = [cuda.Update(x[chosen], y[chosen], buffers, first=part == 0)]
        cuda.accumulate(layers, launcher=HostLauncher(library), mode=mode)
    assert max(errors(x, y, buffers)) < TOLERANCE[mode]


def test_any_schedule_gives_the_same_bits(library):
    generator = torch.Generator().manual_seed(6)
    x, y = data((2000, 40), generator), data((2000, 40), generator)
    results = []
    for seed in (1, 2, 3):
        buffers = poisoned(40, 40)
        cuda.accumulate(
            [cuda.Update(x, y, buffers, first=True)], launcher=HostLauncher(library, seed)
        )
        results.append(buffers)
    for other in results[1:]:
        assert torch.equal(results[0].cross, other.cross)
        assert torch.equal(results[0].sums[0], other.sums[0])


def test_dead_and_late_channels(library):
    generator = torch.Generator().manual_seed(7)
    x, y = data((600, 8), generator), data((600, 8), generator)
    x[:, 2] = 0
    y[:, 3] = 7.25
    buffers = poisoned(8, 8)
    cuda.accumulate([cuda.Update(x, y, buffers, first=True)], launcher=HostLauncher(library))
    assert (buffers.cross[2] == 0).all()
    assert (buffers.cross[:, 3] == 0).all()
    assert max(errors(x, y, buffers)) < TOLERANCE["float32"]
    assert cuda.imprecise_channels(buffers, 600) == 0
    late = x.clone()
    late[:, 2] = data((600, 1), generator)[:, 0] * 1e-6
    cuda.accumulate([cuda.Update(late, y, buffers, first=False)], launcher=HostLauncher(library))
    assert cuda.imprecise_channels(buffers, 1200) == 1


def test_values_too_large_for_their_scale_set_the_status(library):
    x = torch.ones(1100, 4)
    x[::2] = -1
    y = x.clone()
    y[1, 1] = 1e6  # not among the rows that the scale is taken from
    buffers = poisoned(4, 4)
    cuda.accumulate([cuda.Update(x, y, buffers, first=True)], launcher=HostLauncher(library))
    assert cuda.overflowed(buffers)


@pytest.mark.parametrize("layers", [1, 4])
def test_running_out_of_memory_takes_smaller_pieces(library, monkeypatch, layers):
    generator = torch.Generator().manual_seed(8)
    network = [
        cuda.Update(
            data((1500, 20), generator), data((1500, 20), generator), poisoned(20, 20), True
        )
        for _ in range(layers)
    ]
    allocate = torch.empty
    refused = []

    def limited(size, **options):
        if size > 12000:  # bytes: one slab of two layers at most
            refused.append(size)
            raise torch.OutOfMemoryError("out of memory")
        return allocate(size, **options)

    launcher = HostLauncher(library)
    monkeypatch.setattr(cuda.torch, "empty", limited)
    cuda.accumulate(network, launcher=launcher)
    assert refused
    for x, y, buffers, _ in network:
        assert max(errors(x, y, buffers)) < TOLERANCE["float32"]


MUTANTS = {
    "missing wait": (
        "        wait_copies<stages - 1>();\n        convert(stage + 1);",
        "        convert(stage + 1);",
    ),
    "missing barrier": (
        "        convert(stage + 1);\n      }\n      barrier();",
        "        convert(stage + 1);\n      }",
    ),
    "wrong matrix block": ("far = lane / 16 * 8", "far = lane / 16 % 1 * 8"),
    "lost low part": ("multiply_add(d, left[1][i]", "multiply_add(d, left[0][i]"),
    "ragged edge": (
        "const bool inside = first + UInt32(row + (Planar ? e : 0)) < place.end;",
        "const bool inside = true;",
    ),
}
EXACT_MUTANTS = {
    "missing barrier": ("        store(stage + 1);\n      barrier();", "        store(stage + 1);"),
    "wrong row": ("(part.group * rows + step + lane % 4)", "(part.group * rows + step + lane % 2)"),
    "ragged edge": ("row < place.end && channel <", "channel <"),
    "wrong layer": (
        "      *found = table.layers[i];",
        "      *found = table.layers[0], found->first_block = table.layers[i].first_block,\n"
        "      found->first_tile = table.layers[i].first_tile;",
    ),
}


FLOAT32_BODY = "correlate<64, true>(table);"
EXACT_BODY = "correlate_exactly<32>(layer);"
OTHER_BODIES = (
    "correlate<128, true>(table);",
    "correlate<128, false>(table);",
    "correlate_exactly<64>(layer);",
    "if (layer.tile == 64)\n    return correlate_layer<64, true>(layer);",
)


def compile_small(folder, *replacements, without):
    """The kernels of the smallest tile alone, for a quicker build."""
    left_out = [(body, ";") for body in (*OTHER_BODIES, without)]
    return compile_kernels("cross_correlation", folder, replacements=(*left_out, *replacements))


@pytest.mark.parametrize(
    ("mode", "mutant"),
    [*(("float32", name) for name in MUTANTS), *(("exact", name) for name in EXACT_MUTANTS)],
)
def test_planted_faults_are_caught(mode, mutant, tmp_path):
    if mode == "float32":
        library = compile_small(tmp_path, MUTANTS[mutant], without=EXACT_BODY)
    else:
        library = compile_small(tmp_path, EXACT_MUTANTS[mutant], without=FLOAT32_BODY)
    generator = torch.Generator().manual_seed(9)
    updates = []
    for channels in (30, 20, 20, 12, 9):
        shape = (300, channels)
        x, y = data(shape, generator, "shifted"), data(shape, generator, "shifted")
        updates.append(cuda.Update(x, y, poisoned(shape[1], shape[1]), first=True))
    cuda.accumulate(updates, launcher=HostLauncher(library), mode=mode)
    assert not max(max(errors(x, y, held)) for x, y, held, _ in updates) < TOLERANCE[mode]


def test_without_promotion_the_accumulators_drift(library, tmp_path, monkeypatch):
    fault = ("if (stage % chain == chain - 1)", "if (stage < -1)")
    never = compile_small(tmp_path, fault, without=EXACT_BODY)
    monkeypatch.setattr(cuda, "_MIN_SLAB_ROWS", 16384)
    x = torch.randn(16384, 1, generator=torch.Generator().manual_seed(10))
    drift = []
    for kernels in (library, never):
        buffers = poisoned(1, 1)
        cuda.accumulate([cuda.Update(x, x, buffers, first=True)], launcher=HostLauncher(kernels))
        drift.append(errors(x, x, buffers)[0])
    assert drift[0] < TOLERANCE["float32"] < 10 * TOLERANCE["float32"] < drift[1]


@pytest.mark.slow
def test_under_the_address_and_undefined_behaviour_sanitizers(tmp_path):
    if os.environ.get("LMC_SIMT_SANITIZE"):
        pytest.skip("already under the sanitizers")
    compiler = os.environ.get("CXX", "g++")
    paths = [
        subprocess.run(
            [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    if not all(os.path.isabs(path) for path in paths):
        pytest.skip("the compiler has no sanitizer libraries")
    environment = dict(
        os.environ,
        LMC_SIMT_SANITIZE="1",
        LD_PRELOAD=" ".join(paths),
        ASAN_OPTIONS="detect_leaks=0",
    )
    names = ("cross_correlation", "interpolation_grid", "assignment")
    files = [str(Path(__file__).with_name(f"test_simt_{name}.py")) for name in names]
    selected = (
        "ragged_shapes and shifted or half_precision or late_channels or 16_byte or batch_and"
        " or exact_mode or head_over or forbidden"
    )
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", selected, *files],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
