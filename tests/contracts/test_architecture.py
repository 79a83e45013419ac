"""Every architecture keeps the contract, and the contract catches broken ones."""

import geomstats.backend as gs
import numpy as np
import pytest
from autograd.tracer import getval
from cases import ARCHITECTURES, params

from liftflow.architectures import Architecture, ReLUNetwork
from liftflow.testing import check_architecture


@pytest.mark.parametrize("build", params(ARCHITECTURES))
def test_contract(build, rng):
    check_architecture(build(), rng)


class Sphere(Architecture):
    """All that an outsider must write: a lift."""

    def __init__(self):
        super().__init__(dim=3, lifted_shape=())

    def lift(self, theta):
        return gs.sum(self._theta(theta) ** 2, axis=-1)


class Hyperbola(Architecture):
    """A lift and its law."""

    def __init__(self):
        super().__init__(dim=2, lifted_shape=(1, 1), n_laws=1)

    def lift(self, theta):
        return gs.prod(self._theta(theta), axis=-1)[..., None, None]

    def conservation_laws(self, theta):
        squares = self._theta(theta) ** 2
        return squares[..., :1] - squares[..., 1:]


needs_autodiff = pytest.mark.skipif(
    not gs.has_autodiff(), reason="derivatives by autograd need its backend"
)


@needs_autodiff
@pytest.mark.parametrize("minimal", [Sphere, Hyperbola])
def test_contract_of_a_minimal_architecture(minimal, rng):
    check_architecture(minimal(), rng)


# Negative controls: each breaks one promise, and the contract says which.


class ShortVelocity(ReLUNetwork):
    def lift_jvp(self, theta, tangent):
        """Forget the term of the last layer in the product rule."""
        return super().lift_jvp(theta, tangent * (np.arange(self.dim) < self.dim - 2))


class LongPullBack(ReLUNetwork):
    def lift_vjp(self, theta, covector):
        return 1.001 * super().lift_vjp(theta, covector)


class SignlessLaws(ReLUNetwork):
    """Laws with + in place of −, and a derivative that fits them."""

    def conservation_laws(self, theta):
        return (self._theta(theta) ** 2) @ abs(self.dag.channels.law_matrix).toarray().T

    def conservation_laws_jacobian(self, theta):
        return np.abs(self.dag.channels.law_matrix.toarray()) * 2 * self._theta(theta)[..., None, :]

    def laws_jvp(self, theta, tangent):
        return (2 * self._theta(theta) * tangent) @ abs(self.dag.channels.law_matrix).toarray().T


class HalfLawsJacobian(ReLUNetwork):
    def conservation_laws_jacobian(self, theta):
        return super().conservation_laws_jacobian(theta) / 2


class BackwardLaws(ReLUNetwork):
    def laws_jvp(self, theta, tangent):
        return -super().laws_jvp(theta, tangent)


class DependentLaws(ReLUNetwork):
    def laws_rank(self, theta):
        return self.n_hidden - 1


class MissingLaw(ReLUNetwork):
    def conservation_laws(self, theta):
        return super().conservation_laws(theta)[..., 1:]


class DoubleGram(ReLUNetwork):
    def gram_apply(self, theta, covector):
        return 2 * super().gram_apply(theta, covector)


class DiagonalGram(ReLUNetwork):
    def gram_matrix(self, theta):
        return super().gram_matrix(theta) * np.eye(self.n_paths)


class TransposedJacobian(ReLUNetwork):
    def lift_jacobian(self, theta):
        return np.flip(super().lift_jacobian(theta), axis=-1)


class FirstOfBatch(ReLUNetwork):
    def lift(self, theta):
        theta = self._theta(theta)
        return super().lift(theta[..., :1, :] + 0 * theta if theta.ndim > 1 else theta)


class SumOfBatch(ReLUNetwork):
    def conservation_laws(self, theta):
        laws = super().conservation_laws(theta)
        return laws if laws.ndim == 1 else laws.sum(axis=0)


class MatrixLift(ReLUNetwork):
    def lift(self, theta):
        return super().lift(theta)[..., None]


class UntracedLift(ReLUNetwork):
    """Half of the product is hidden from autograd."""

    def lift(self, theta):
        product = super().lift(theta)
        return (product + getval(getval(product))) / 2


class NoProjection(ReLUNetwork):
    def project_to_tangent(self, theta, vector):
        return vector + 0 * self._theta(theta)


class ObliqueProjection(ReLUNetwork):
    """Along the out-edges of each hidden node, in place of the orthogonal direction."""

    def project_to_tangent(self, theta, vector):
        laws = self.conservation_laws_jacobian(theta)
        outward = np.minimum(np.sign(self.dag.channels.law_matrix.toarray()), 0)
        directions = outward * self._theta(theta)[..., None, :]
        gram = np.einsum("...ij,...kj->...ik", laws, directions)
        speeds = np.linalg.solve(gram, self.laws_jvp(theta, vector)[..., None])[..., 0]
        return vector - np.einsum("...i,...ij->...j", speeds, directions)


class ManhattanDistance(ReLUNetwork):
    def lifted_distance(self, theta_a, theta_b):
        return np.sum(np.abs(self.lift(theta_a) - self.lift(theta_b)), axis=-1)


class SquaredNorm(ReLUNetwork):
    def lifted_norm(self, theta):
        return super().lifted_norm(theta) ** 2


class Nearby(ReLUNetwork):
    def recover(self, z, laws, *, near=None):
        return near


class OtherSet(ReLUNetwork):
    """A point of the right fibre, on another invariant set."""

    def recover(self, z, laws, *, near=None):
        return super().recover(z, 1.1 * laws, near=near)


class LazyProjection(ReLUNetwork):
    def project_to_laws(self, theta, laws, *, max_steps=50):
        return self._theta(theta)


class OtherFibre(ReLUNetwork):
    def fibre_point(self, theta, rng=None):
        return 1.01 * super().fibre_point(theta, rng)


class SwappedBlocks(ReLUNetwork):
    def unpack(self, theta):
        return super().unpack(theta)[::-1]


class ReversedBlocks(ReLUNetwork):
    def unpack(self, theta):
        return super().unpack(theta[..., ::-1])


class SampleAxis(ReLUNetwork):
    def random_point(self, n_samples=1, rng=None):
        return super().random_point(n_samples, rng).reshape(n_samples, self.dim)


class Unseeded(ReLUNetwork):
    def random_point(self, n_samples=1, rng=None):
        return super().random_point(n_samples)


class ConstantSeed(ReLUNetwork):
    def random_point(self, n_samples=1, rng=None):
        return super().random_point(n_samples, 0)


class GlobalSeed(ReLUNetwork):
    def random_point(self, n_samples=1, rng=None):
        np.random.seed(0)  # noqa: NPY002
        return super().random_point(n_samples, rng)


BROKEN = [
    (ShortVelocity, "lift_jvp against finite differences"),
    (LongPullBack, "lift_vjp as the transpose of lift_jvp"),
    (SignlessLaws, "conservation, ∂h ∂φᵀ = 0"),
    (HalfLawsJacobian, "conservation_laws_jacobian against finite differences"),
    (BackwardLaws, "laws_jvp against conservation_laws_jacobian"),
    (DependentLaws, "laws_rank: 2, but ∂h has rank 3"),
    (MissingLaw, r"conservation_laws: shape \(2,\), expected \(3,\)"),
    (DoubleGram, "gram_apply against ∂φ ∂φᵀ"),
    (DiagonalGram, "gram_matrix against ∂φ ∂φᵀ"),
    (TransposedJacobian, "lift_jacobian against finite differences"),
    (FirstOfBatch, "lift: leading axes"),
    (SumOfBatch, "conservation_laws: leading axes"),
    (MatrixLift, r"lift: shape \(36, 1\), expected \(36,\)"),
    (NoProjection, "project_to_tangent: rank 27, expected 24"),
    (ObliqueProjection, "project_to_tangent: symmetric"),
    (ManhattanDistance, "lifted_distance against lift"),
    (SquaredNorm, "lifted_norm against lift"),
    (Nearby, "recover: lift"),
    (OtherSet, "recover: laws"),
    (LazyProjection, "project_to_laws: laws"),
    (OtherFibre, "fibre_point: lift"),
    (SwappedBlocks, "unpack: shapes"),
    (ReversedBlocks, "pack after unpack"),
    (SampleAxis, r"random_point: shape \(1, 27\), expected \(27,\)"),
    (Unseeded, "random_point: the same seed gives other draws"),
    (ConstantSeed, "random_point: another seed gives the same draws"),
    (GlobalSeed, "random_point: numpy's global random state moved"),
]


@pytest.fixture
def restored():
    """Put numpy's global random state back after a test whose point is to move it."""
    state = np.random.get_state()  # noqa: NPY002
    yield
    np.random.set_state(state)  # noqa: NPY002


@pytest.mark.parametrize(("broken", "reason"), BROKEN, ids=[cls.__name__ for cls, _ in BROKEN])
def test_contract_catches(broken, reason, rng, restored):
    with pytest.raises(AssertionError, match=reason):
        check_architecture(broken.residual([2, 3, 3], [(0, 2)], bias=True), rng)


class Signed(Hyperbola):
    """Recovers θ with a first entry above 0, as a user would write it."""

    def recover(self, z, laws, *, near=None):
        product = self.sign(np.asarray(z)[..., 0])
        first = np.sqrt((laws + np.sqrt(laws**2 + 4 * product**2)) / 2)
        return np.concatenate([first, product / first], axis=-1)

    sign = staticmethod(np.positive)


class Unsigned(Signed):
    sign = staticmethod(np.abs)


@needs_autodiff
def test_contract_catches_a_recovery_that_is_right_of_positive_z_alone(rng):
    check_architecture(Signed(), rng)
    with pytest.raises(AssertionError, match="recover: lift: off by "):
        check_architecture(Unsigned(), rng)


@needs_autodiff
def test_contract_catches_a_lift_that_autograd_sees_half_of(rng):
    with pytest.raises(AssertionError, match="lift_jacobian against autodiff"):
        check_architecture(UntracedLift.from_widths([2, 3, 2]), rng)
