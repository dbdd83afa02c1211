"""Specs of known architectures: derived, proven, and without an operation that lacks a rule."""

import copy
from pathlib import Path

import pytest
import torch
from lmc_fast import (
    PermutationSpec,
    apply_permutation,
    invert,
    match,
    prove_spec,
    random_permutation,
)
from lmc_fast._torchvision import import_torchvision
from lmc_fast.symmetry.derive import derive_unproven

from bench.models import MODELS

pytestmark = pytest.mark.slow


def needed(name):
    package = name.split()[0]
    if package in ("torchvision", "transformers"):
        try:
            import_torchvision()
        except ImportError:
            pytest.skip("torchvision is not installed")
        pytest.importorskip(package)


@pytest.mark.parametrize("name", MODELS)
def test_known_architectures_are_derived_and_proven(name):
    needed(name)
    model, inputs = MODELS[name]()
    spec = derive_unproven(model, inputs)
    assert spec.groups
    assert prove_spec(spec, model, inputs).passed
    assert not [pin for pin in spec.pinned if "rule" in pin.reason]


def test_the_hand_spec_of_resnet50_is_found():
    needed("torchvision")
    model, _ = MODELS["torchvision resnet50"]()
    golden = PermutationSpec.parse(
        (Path(__file__).parent / "golden" / "resnet50.spec").read_text(), like=model
    )
    assert derive_unproven(model, torch.randn(1, 3, 64, 64)).equivalent(golden)


def small_vit():
    vision = import_torchvision().models.VisionTransformer
    return vision(32, 8, 2, 4, 32, 64, num_classes=10), torch.randn(2, 3, 32, 32)


def small_gpt2():
    import transformers

    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 50, "n_positions": 16}
    config = transformers.GPT2Config(**sizes, use_cache=False)
    return transformers.GPT2LMHeadModel(config), {"input_ids": torch.randint(50, (2, 8))}


def small_llama():
    import transformers

    config = transformers.LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=50,
        use_cache=False,
    )
    return transformers.LlamaForCausalLM(config), {"input_ids": torch.randint(50, (2, 8))}


@pytest.mark.parametrize("build", [small_vit, small_gpt2, small_llama])
def test_planted_permutations_of_real_transformers_are_recovered(build):
    needed("torchvision")
    needed("torchvision" if build is small_vit else "transformers")
    with torch.random.fork_rng():
        torch.random.manual_seed(0)
        a, inputs = build()
    spec = PermutationSpec.from_model(a, inputs)
    assert spec.parents
    p = random_permutation(spec, generator=torch.Generator().manual_seed(1))
    b = copy.deepcopy(a)
    b.load_state_dict(apply_permutation(spec, p, a.state_dict()))
    expected = invert(p, spec)
    found = match(a, b, example_inputs=inputs, restarts=8)
    assert all(torch.equal(found.permutation[g], expected[g]) for g in spec.groups)
    assert set(found.statistics) == set(spec.groups)
    if build is small_vit:
        images = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(2))
        found = match(a, b, data=images)
        assert all(torch.equal(found.permutation[g], expected[g]) for g in spec.groups)
