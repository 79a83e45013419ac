"""What geomstats's test cases need: seeded draws, and only the tests that have data."""

import hashlib

import numpy as np
import pytest
from geomstats.test.conf import pytest_collection_modifyitems  # noqa: F401 - drops tests without data


@pytest.fixture(autouse=True)
def global_random_state_stays(request):
    """Seed numpy's global generator, which geomstats's cases draw from, and put it back."""
    before = np.random.get_state()  # noqa: NPY002
    digest = hashlib.sha256(request.node.nodeid.encode()).digest()
    np.random.seed(int.from_bytes(digest[:4], "little"))  # noqa: NPY002
    yield
    np.random.set_state(before)  # noqa: NPY002
