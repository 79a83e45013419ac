"""Every public concrete class is in the registry, so no class escapes its contract."""

import inspect

import pytest
from cases import ARCHITECTURES, MANIFOLDS, METRICS
from geomstats.geometry.manifold import Manifold

import liftflow.architectures
import liftflow.manifolds
import liftflow.metrics
from liftflow.architectures import Architecture
from liftflow.metrics import Cometric, IntrinsicMetric


def concrete(room, base):
    """Return the public classes of a room that can be built and derive from ``base``."""
    classes = [getattr(room, name) for name in room.__all__]
    classes = [cls for cls in classes if inspect.isclass(cls) and issubclass(cls, base)]
    return {cls.__name__ for cls in classes if not inspect.isabstract(cls)}


def built(table, part=lambda case: case):
    return {type(part(build())).__name__ for build in table.values()}


@pytest.mark.parametrize(
    ("room", "base", "found"),
    [
        (liftflow.architectures, Architecture, lambda: built(ARCHITECTURES)),
        (liftflow.metrics, Cometric, lambda: built(METRICS, lambda metric: metric.cometric)),
        (liftflow.metrics, IntrinsicMetric, lambda: built(METRICS)),
        (liftflow.manifolds, Manifold, lambda: built(MANIFOLDS)),
    ],
    ids=["architectures", "cometrics", "metrics", "manifolds"],
)
def test_every_public_class_has_a_case(room, base, found):
    missing = concrete(room, base) - found()
    assert not missing, f"add a line for {', '.join(sorted(missing))} to tests/cases.py"


def test_metrics_sit_on_their_spaces():
    for build in METRICS.values():
        metric = build()
        assert metric._space.metric is metric
