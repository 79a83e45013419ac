"""Randomness from the test's own name, and none behind its back."""

import hashlib
import os

import numpy as np
import pytest

os.environ["MPLBACKEND"] = "Agg"  # read at matplotlib's first import


@pytest.fixture
def rng(request):
    """Generator seeded by the id of the test, the same in every run and on every worker."""
    digest = hashlib.sha256(request.node.nodeid.encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


@pytest.fixture(autouse=True)
def global_random_state_stays():
    """Fail a test during which numpy's global random state moved."""
    before = np.random.get_state()  # noqa: NPY002 - to see that nobody uses it
    yield
    after = np.random.get_state()  # noqa: NPY002
    same = all(np.array_equal(old, new) for old, new in zip(before, after, strict=True))
    assert same, "numpy's global random state moved; pass a Generator or a seed as rng instead"
