"""Invariant sets, images and bundles under geomstats's own test cases."""

import pytest
from autodata import DataBasedParametrizer, data_for
from geomstats.test_cases.geometry.base import LevelSetTestCase
from geomstats.test_cases.geometry.fiber_bundle import FiberBundleTestCase
from geomstats.test_cases.geometry.manifold import ManifoldTestCase
from geomstats.test_cases.geometry.mixins import ProjectionTestCaseMixins
from geomstats.test_cases.geometry.nfold_manifold import NFoldManifoldTestCase
from geomstats.test_cases.geometry.product_manifold import ProductManifoldTestCase
from spaces import COPIES, IMAGES, PRODUCTS, SETS, Nearby, NearbyCopies, NearbyProduct, params


@pytest.fixture(scope="class", params=params(SETS))
def invariant_set(request):
    request.cls.space = request.param()
    request.cls.data_generator = Nearby(request.cls.space)


@pytest.fixture(scope="class", params=params(IMAGES))
def image(request):
    request.cls.space = request.param()
    request.cls.data_generator = Nearby(request.cls.space)


@pytest.fixture(scope="class", params=params(PRODUCTS))
def product(request):
    request.cls.space = request.param()
    request.cls.data_generator = NearbyProduct(request.cls.space)


@pytest.fixture(scope="class", params=params(COPIES))
def copies(request):
    request.cls.space = request.param()
    request.cls.data_generator = NearbyCopies(request.cls.space)


@pytest.fixture(scope="class", params=params(SETS))
def bundle(request):
    cls = request.cls
    cls.total_space = request.param()
    cls.base = cls.total_space.image()
    cls.data_generator = Nearby(cls.total_space)
    cls.base_data_generator = Nearby(cls.base)


@pytest.mark.usefixtures("invariant_set")
class TestInvariantSet(LevelSetTestCase, metaclass=DataBasedParametrizer):
    testing_data = data_for(LevelSetTestCase)


class ImageTestCase(ProjectionTestCaseMixins, ManifoldTestCase):
    """All that geomstats has for manifolds that are given otherwise."""


@pytest.mark.usefixtures("image")
class TestImage(ImageTestCase, metaclass=DataBasedParametrizer):
    testing_data = data_for(ImageTestCase)


@pytest.mark.usefixtures("product")
class TestProduct(ProductManifoldTestCase, metaclass=DataBasedParametrizer):
    testing_data = data_for(ProductManifoldTestCase, "product")


@pytest.mark.usefixtures("copies")
class TestCopies(NFoldManifoldTestCase, metaclass=DataBasedParametrizer):
    testing_data = data_for(NFoldManifoldTestCase, "copies")


@pytest.mark.usefixtures("bundle")
class TestLiftBundle(FiberBundleTestCase, metaclass=DataBasedParametrizer):
    testing_data = data_for(FiberBundleTestCase, "bundle")
