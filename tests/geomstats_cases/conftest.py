"""What geomstats's test cases need: seeded draws, and only the tests that have data."""

import hashlib
import sys

import numpy as np
import pytest
from geomstats.test.conf import pytest_collection_modifyitems  # noqa: F401 - drops tests without data
from geomstats.test.test_case import TestCase

default_rng = np.random.default_rng
in_batches = TestCase._test_vectorization


def told_its_name(self, vec_data, test_fnc_name=None):
    """Look up the caller's name, for which geomstats reads the source of every frame."""
    return in_batches(self, vec_data, test_fnc_name or sys._getframe(1).f_code.co_name[:-4])


TestCase._test_vectorization = told_its_name


@pytest.fixture(autouse=True)
def global_random_state_stays(request, monkeypatch):
    """Seed by the id of the test what geomstats's cases draw from, and put it back.

    They draw from numpy's global generator, and call ``random_point`` without a seed.
    """
    before = np.random.get_state()  # noqa: NPY002
    digest = hashlib.sha256(request.node.nodeid.encode()).digest()
    np.random.seed(int.from_bytes(digest[:4], "little"))  # noqa: NPY002
    seeds = np.random.SeedSequence(int.from_bytes(digest[4:8], "little"))

    def generator(seed=None):
        return default_rng(seeds.spawn(1)[0] if seed is None else seed)

    monkeypatch.setattr(np.random, "default_rng", generator)
    yield
    np.random.set_state(before)  # noqa: NPY002
