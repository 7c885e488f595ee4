"""Shared by all tests: the seed that generated inputs take, and the GPU marker."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest

# Before torch is loaded: OpenMP threads that spin while they wait starve each other on a busy machine (measured: a
# denoiser call of 0.2 s takes 14 s with other processes on the same cores).
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

if find_spec("torchvision") is not None:  # diffusers, which tests compare with, looks for it
    from modules.nets.torchvision_fit import fit_torchvision

    fit_torchvision()


@pytest.fixture(scope="session")
def test_seed() -> int:
    """Seed for generated weights, files and inputs: $TEST_SEED, or a fixed default. Tests pass with any value."""
    return int(os.environ.get("TEST_SEED", "20261120"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long files begin first, so that none is left for one process at the end. A test in a browser gets two more tries:
    on a busy machine a click may fall on what is drawn anew just then."""
    long = {item.path for item in items if item.get_closest_marker("browser") or item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)
    if not config.pluginmanager.hasplugin("rerunfailures"):
        return
    for item in items:
        if item.get_closest_marker("browser"):
            item.add_marker(pytest.mark.flaky(reruns=2))
