"""All metrics under geomstats's own test cases, and second implementations against first ones."""

import pytest
from autodata import DataBasedParametrizer, data_for
from geomstats.test_cases.geometry.riemannian_metric import (
    RiemannianMetricComparisonTestCase,
    RiemannianMetricTestCase,
)
from spaces import (
    COORDINATE_METRICS,
    EXTRINSIC_METRICS,
    INDUCED_METRICS,
    OPEN_METRICS,
    QUOTIENTS,
    Nearby,
    params,
)


@pytest.fixture(scope="class", params=params(INDUCED_METRICS))
def invariant_set(request):
    request.cls.space = request.param()
    request.cls.data_generator = Nearby(request.cls.space)


@pytest.fixture(scope="class", params=params(EXTRINSIC_METRICS))
def extrinsic_image(request):
    request.cls.space = request.param()
    request.cls.data_generator = Nearby(request.cls.space)


@pytest.fixture(scope="class", params=params(OPEN_METRICS))
def open_image(request):
    request.cls.space = request.param()
    request.cls.data_generator = Nearby(request.cls.space)


@pytest.fixture(scope="class", params=params(COORDINATE_METRICS, ["flat, two layers 2, 2, 2"]))
def coordinates(request):
    request.cls.space = request.param()
    request.cls.data_generator = Nearby(request.cls.space)


@pytest.fixture(scope="class", params=params(QUOTIENTS))
def closed_form_and_quotient(request):
    total_space = request.param()
    request.cls.space = total_space.image()
    request.cls.other_space = total_space.equip_with_quotient()
    request.cls.data_generator = Nearby(request.cls.space)


@pytest.fixture(scope="class")
def flat_and_shaped(request):
    request.cls.space = COORDINATE_METRICS["flat, two layers 2, 2, 2"]()
    request.cls.other_space = request.cls.space.image_space
    request.cls.diffeo = request.cls.space.diffeo
    request.cls.data_generator = Nearby(request.cls.space)


@pytest.mark.usefixtures("invariant_set")
class TestInducedMetric(RiemannianMetricTestCase, metaclass=DataBasedParametrizer):
    testing_data = data_for(RiemannianMetricTestCase, "metric", "extrinsic", "induced")


@pytest.mark.usefixtures("extrinsic_image")
class TestExtrinsicImage(RiemannianMetricTestCase, metaclass=DataBasedParametrizer):
    testing_data = data_for(RiemannianMetricTestCase, "metric", "extrinsic", "image")


@pytest.mark.usefixtures("open_image")
class TestOpenImage(RiemannianMetricTestCase, metaclass=DataBasedParametrizer):
    testing_data = data_for(RiemannianMetricTestCase, "metric", "array")


@pytest.mark.usefixtures("coordinates")
class TestCoordinates(RiemannianMetricTestCase, metaclass=DataBasedParametrizer):
    testing_data = data_for(RiemannianMetricTestCase, "metric", "coordinates")


@pytest.mark.usefixtures("closed_form_and_quotient")
class TestClosedFormAgainstQuotient(
    RiemannianMetricComparisonTestCase, metaclass=DataBasedParametrizer
):
    testing_data = data_for(RiemannianMetricComparisonTestCase, "comparison", "quotient")


@pytest.mark.usefixtures("flat_and_shaped")
class TestFlatAgainstShaped(RiemannianMetricComparisonTestCase, metaclass=DataBasedParametrizer):
    testing_data = data_for(RiemannianMetricComparisonTestCase, "comparison", "shaped")
