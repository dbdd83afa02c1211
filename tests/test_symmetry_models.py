"""Specs of known architectures: derived, proven, and without an operation that lacks a rule."""

from pathlib import Path

import pytest
import torch
from lmc_fast import PermutationSpec, prove_spec
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
