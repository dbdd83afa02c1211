"""The published results this library reproduces, one command each: ``lmc-fast study NAME``."""

from __future__ import annotations

from importlib import import_module

from lmc_fast.studies.study import Check, Context, Result, Row, Study, run_study, table
from lmc_fast.studies.summary import summary

_MODULES = (
    "moons_zoo",
    "moons_naive",
    "moons_reduce",
    "moons_robust",
    "clusters",
    "mnist_zoo",
    "cifar_mlp",
    "swa",
    "regions",
    "teacher_student_width",
    "lr_sparsity",
    "width_mnist",
    "trajectory",
    "imp",
    "three_networks",
    "matchers",
    "depth_repair",
    "many",
)


def studies() -> dict[str, Study]:
    """Return every study by name, in the order of the documentation."""
    found = [import_module(f"lmc_fast.studies.{module}").STUDY for module in _MODULES]
    return {study.name: study for study in found}


__all__ = ["Check", "Context", "Result", "Row", "Study", "run_study", "studies", "summary", "table"]
