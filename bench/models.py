"""Derive and prove the spec of many known architectures; store the figures, write the table.

``python -m bench.models run`` derives every model's spec in a fresh process and appends to
``bench/results/models.json``; ``python -m bench.models table`` writes ``docs/models.md`` from it.
"""

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lmc_fast._torchvision import import_torchvision
from torch import nn

RESULTS = Path(__file__).parent / "results" / "models.json"
TABLE = Path(__file__).parent.parent / "docs" / "models.md"

TORCHVISION = {
    "resnet18": 64,
    "resnet50": 64,
    "wide_resnet50_2": 64,
    "resnext50_32x4d": 64,
    "vgg16_bn": 224,
    "densenet121": 64,
    "mobilenet_v2": 64,
    "mobilenet_v3_small": 64,
    "efficientnet_b0": 64,
    "convnext_tiny": 64,
    "regnet_y_400mf": 64,
    "shufflenet_v2_x1_0": 64,
    "squeezenet1_1": 64,
    "googlenet": 64,
    "inception_v3": 96,
    "vit_b_16": 224,
    "swin_t": 224,
    "maxvit_t": 224,
}


def _torchvision(name: str, side: int) -> tuple[nn.Module, Any]:
    models = import_torchvision().models
    extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(models, name)(weights=None, **extra), torch.randn(1, 3, side, side)


def _tokens(vocabulary: int = 1000) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.randint(vocabulary, (1, 8))}


def _transformers(name: str) -> tuple[nn.Module, Any]:
    import_torchvision()
    import transformers as t

    small = {
        "hidden_size": 256,
        "intermediate_size": 688,
        "num_hidden_layers": 4,
        "vocab_size": 1000,
    }
    if name == "GPT-2":
        return t.GPT2LMHeadModel(t.GPT2Config(use_cache=False)), _tokens()
    if name == "BERT":
        return t.BertModel(t.BertConfig()), _tokens()
    if name == "Llama":
        config = t.LlamaConfig(
            **small, num_attention_heads=8, num_key_value_heads=2, use_cache=False
        )
        return t.LlamaForCausalLM(config), _tokens()
    if name == "Mistral":
        config = t.MistralConfig(
            **small, num_attention_heads=8, num_key_value_heads=2, use_cache=False
        )
        return t.MistralForCausalLM(config), _tokens()
    if name == "ViT":
        return t.ViTModel(t.ViTConfig(num_hidden_layers=4)), {
            "pixel_values": torch.randn(1, 3, 224, 224)
        }
    return t.T5EncoderModel(t.T5Config(use_cache=False)), _tokens()


class _Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(20, 64)
        layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(self.embed(x)).mean(1))


class _Recurrent(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 32)
        self.cells = getattr(nn, kind)(32, 48, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(96, 5)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.cells(self.embed(tokens))[0][:, -1])


MODELS: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    **{
        f"torchvision {name}": lambda name=name, side=side: _torchvision(name, side)
        for name, side in TORCHVISION.items()
    },
    **{
        f"transformers {name}": lambda name=name: _transformers(name)
        for name in ("GPT-2", "BERT", "Llama", "Mistral", "ViT", "T5 encoder")
    },
    "torch TransformerEncoder": lambda: (_Encoder(), torch.randn(2, 6, 20)),
    "torch LSTM": lambda: (_Recurrent("LSTM"), torch.randint(50, (2, 6))),
    "torch GRU": lambda: (_Recurrent("GRU"), torch.randint(50, (2, 6))),
}


def measure(name: str) -> dict[str, Any]:
    """Derive one model's spec and prove it once more."""
    from lmc_fast import PermutationSpec, prove_spec

    torch.manual_seed(0)
    model, inputs = MODELS[name]()
    torch.export.export(nn.Linear(2, 2), (torch.randn(1, 2),))
    start, cpu = time.perf_counter(), time.process_time()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        spec = PermutationSpec.from_model(model, inputs)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    start = time.perf_counter()
    PermutationSpec.from_model(model, inputs)
    cached = time.perf_counter() - start
    proof = prove_spec(spec, model, inputs, generator=torch.Generator().manual_seed(1))
    state = dict(model.named_parameters())
    moved = sum(p.numel() for n, p in state.items() if any(not t.is_fixed for t in spec.tensors[n]))
    return {
        "model": name,
        "parameters": sum(p.numel() for p in state.values()),
        "groups": len(spec.groups),
        "nested": len(spec.parents),
        "log10_permutations": sum(
            math.prod(spec.permutation_shape(g)[:-1]) * math.lgamma(n + 1) / math.log(10)
            for g, n in spec.groups.items()
        ),
        "moved": moved / sum(p.numel() for p in state.values()),
        "pinned": [{**vars(p), "source": Path(p.source).name} for p in spec.pinned],
        "warnings": [str(w.message) for w in caught],
        "seconds": seconds,
        "cpu_seconds": cpu,
        "cached_ms": 1e3 * cached,
        "proof": proof.change,
    }


def run(names: list[str], seconds: float) -> None:
    """Measure every model in a fresh process and store the figures."""
    stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"models": {}}
    for name in names:
        command = [sys.executable, "-m", "bench.models", "measure", name]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=seconds, check=True
            )
            stored["models"][name] = json.loads(done.stdout.splitlines()[-1])
        except subprocess.TimeoutExpired:
            print(name, f"took more than {seconds:.0f} s: nothing stored", file=sys.stderr)
            continue
        except subprocess.CalledProcessError as error:
            last = (error.stderr.strip().splitlines() or [""])[-1]
            stored["models"][name] = {"model": name, "failed": last}
        stored |= {
            "command": "python -m bench.models run",
            "torch": torch.__version__,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        }
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(stored, indent=1))
        print(name, "done", file=sys.stderr)


def table(stored: dict[str, Any]) -> str:
    """Return the table of docs/models.md."""
    lines = [
        "# Symmetries of known architectures",
        "",
        f"Written by `python -m bench.models table` from `bench/results/{RESULTS.name}` "
        f"(`{stored['command']}`, torch {stored['torch']}, {stored['machine']}, random weights; "
        "one model at a time with nothing else running).",
        "",
        "Groups in brackets exist once per unit of another. Moved: share of parameters that some "
        "group moves. Seconds: wall clock of tracing, derivation and proof. Proof: relative output "
        "change in float64 under a random permutation of all groups at once.",
        "",
        "| model | parameters | groups | moved | seconds | proof | pinned |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for name in MODELS:
        row = stored["models"].get(name)
        if row is None:
            continue
        if "failed" in row:
            lines.append(f"| {name} | | | | | | failed: {row['failed']} |")
            continue
        nested = f" ({row['nested']})" if row["nested"] else ""
        lines.append(
            f"| {name} | {row['parameters'] / 1e6:.1f} M | {row['groups']}{nested} | "
            f"{100 * row['moved']:.1f} % | {row['seconds']:.1f} | {row['proof']:.0e} | "
            f"{_reasons(row['pinned'])} |"
        )
    return "\n".join(lines) + "\n"


def _reasons(pins: list[dict[str, str]]) -> str:
    counts = Counter((pin["operation"], pin["reason"]) for pin in pins)
    return "; ".join(f"{n} by {op}: {reason}" for (op, reason), n in counts.most_common())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=("run", "measure", "table"))
    parser.add_argument("names", nargs="*", help="all models where left out")
    parser.add_argument("--seconds", type=float, default=300, help="limit for one model")
    args = parser.parse_args()
    if args.action == "run":
        run(args.names or list(MODELS), args.seconds)
    elif args.action == "measure":
        print(json.dumps(measure(args.names[0])))
    else:
        TABLE.parent.mkdir(exist_ok=True)
        TABLE.write_text(table(json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    main()
