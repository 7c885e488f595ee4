"""Shared by all tests: the seed that generated inputs take, and the GPU marker."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="session")
def test_seed() -> int:
    """Seed for generated weights, files and inputs: $TEST_SEED, or a fixed default. Tests pass with any value."""
    return int(os.environ.get("TEST_SEED", "20261120"))
