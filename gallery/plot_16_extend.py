r"""
A metric family of your own
===========================

A new family needs a lift with its laws, and K_θ₀ with its inverse. Everything else, from geomstats'
inner products to the comparison of the two flows, follows. ``liftflow.testing`` certifies it.

**Claim** (ours, by hand below): for φ(u, v) = u∘u − v∘v, entry by entry, the laws are h = u∘v and
:math:`K_{θ_0}(z) = 4\sqrt{z^2 + 4h^2}`. It is the diagonal network of depth 2 seen from another
angle: (u + v)(u − v) = u² − v², and a rotation of (u, v) changes no gradient flow.
"""

import autograd.numpy as anp
import matplotlib.pyplot as plt
import numpy as np

from liftflow import Architecture, Cometric, InvariantSet, compare, loss_from_function
from liftflow.figures import CONTROL, INTRINSIC, PARAMETER, style
from liftflow.manifolds import LiftedImage, image_manifold
from liftflow.metrics import IntrinsicMetric, intrinsic_cometric
from liftflow.testing import check_architecture, check_manifold, check_metric

plt.style.use(style())

# %%
# The family, in 30 lines
# -----------------------
#
# Along a gradient flow u' = −2u∘∇f and v' = 2v∘∇f, so (u∘v)' = 0. And
# M = ∂φ∂φᵀ = 4(u² + v²) = 4√((u² − v²)² + 4u²v²).


class SquareDifference(Architecture):
    """The lift φ(u, v) = u∘u − v∘v."""

    def __init__(self, n):
        super().__init__(2 * n, (n,), n_laws=n, block_shapes=[(n,), (n,)])

    def lift(self, theta):
        u, v = self.unpack(theta)
        return u**2 - v**2

    def conservation_laws(self, theta):
        u, v = self.unpack(theta)
        return u * v


class SquareDifferenceCometric(Cometric):
    """K = 4√(z² + 4h²), a diagonal matrix."""

    def scale(self, z):
        return 4.0 * (z**2 + 4.0 * self.laws**2) ** 0.5

    def apply(self, z, covector, *, near=None):
        return self.scale(z) * covector

    def solve(self, z, tangent_vec):
        return tangent_vec / self.scale(z)

    def point(self, z, *, near=None):
        near = self.theta0 if near is None else near
        return self.architecture.recover(z, self.laws, near=near)


@intrinsic_cometric.register
def _(architecture: SquareDifference, theta0, *, tolerance=0.0):
    return SquareDifferenceCometric(architecture, theta0)


# %%
# The image, all of ℝⁿ, is a geomstats manifold of yours, too: which points belong to it, and which
# vectors are tangent.


class WholeSpace(LiftedImage):
    """All of ℝⁿ."""

    def belongs(self, point, atol=1e-12):
        return np.full(np.shape(point)[:-1], np.shape(point)[-1:] == self.shape)

    def to_tangent(self, vector, base_point):
        return vector + 0.0 * base_point


@image_manifold.register
def _(architecture: SquareDifference, theta0):
    return WholeSpace(architecture, theta0, dim=architecture.lifted_dim)


# %%
# Certify it
# ----------
#
# The contracts draw random points and judge derivatives by finite differences, K by ∂φ∂φᵀ, and
# all shapes and batches against loops. The control is the same family with 4h² mistaken for h²:
# the contracts must refuse it.


class Mistaken(SquareDifferenceCometric):
    """The same with the wrong constant."""

    def scale(self, z):
        return 4.0 * (z**2 + self.laws**2) ** 0.5


network = SquareDifference(3)
start = InvariantSet(network, network.pack([-1.2, 0.4, 0.9], [0.5, -1.3, 1.0]))
for check, what in [
    (check_architecture, network),
    (check_manifold, start),
    (check_manifold, start.image()),
    (check_metric, start.image().metric),
]:
    check(what)
    print(f"{check.__name__:18} {type(what).__name__:18} passed")

wrong = Mistaken(network, start.theta0)
try:
    check_metric(IntrinsicMetric(start.image(), wrong))
    complaint = ""
except AssertionError as error:
    complaint = str(error)
print(f"check_metric of the mistaken K: {complaint}")

# %%
# Use it
# ------
#
# Both flows of a regression, and the control.

TARGET = np.array([-0.5, 0.8, 1.2])
loss = loss_from_function(lambda z: anp.sum(anp.array([0.3, 0.4, 0.2]) * (z - TARGET) ** 2))
run = compare(start, loss, (0.0, 1.5), rtol=1e-8)
failed = compare(start, loss, (0.0, 1.5), rtol=1e-8, cometric=wrong)

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4.6))
u, v = network.unpack(run.parameter.theta)
for i, law in enumerate(start.laws0):
    grid = np.linspace(0.05, 1.9, 300)
    sign = np.sign(u[0, i])
    left.plot(sign * grid, sign * law / grid, color="0.6", linewidth=1)
    left.plot(u[:, i], v[:, i], color=PARAMETER, linewidth=4)
    left.plot(u[0, i], v[0, i], "o", color=PARAMETER, markersize=9)
    left.annotate(f"{i + 1}", (u[0, i], v[0, i]), (6, 6), textcoords="offset points")
    end = run.parameter.t[-1], run.intrinsic.y[-1, i]
    right.annotate(f"{i + 1}", end, (6, -4), textcoords="offset points")
    right.plot(
        run.parameter.t, u[:, i] ** 2 - v[:, i] ** 2, color=PARAMETER, linewidth=6, alpha=0.4
    )
    right.plot(run.intrinsic.t, run.intrinsic.y[:, i], "--", color=INTRINSIC)
    right.plot(failed.intrinsic.t, failed.intrinsic.y[:, i], ":", color=CONTROL)
left.set(title="θ and the hyperbolas uᵢvᵢ = hᵢ", xlabel="uᵢ", ylabel="vᵢ")
left.set(xlim=(-2, 2), ylim=(-2, 2), aspect="equal")
right.set(title=f"z = u² − v²: {run.verdict.lower()}", xlabel="time t", ylabel="zᵢ")
right.plot([], [], color=PARAMETER, linewidth=6, alpha=0.4, label="φ of the parameter flow")
right.plot([], [], "--", color=INTRINSIC, label="intrinsic flow")
right.plot([], [], ":", color=CONTROL, label="control: h² in place of 4h²")
figure.suptitle(f"{network!r}, a quadratic loss", fontsize="small")
figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=3)
plt.show()

# %%
# The claim, checked
# ------------------

print(f"deviation {run.max_deviation:.0e}, of the control {failed.max_deviation:.0e}")
assert run.max_deviation < 1e-6, "the two flows part"
assert "off by" in complaint, "the contracts let a wrong metric pass"
assert failed.max_deviation > 0.01, "any metric would do"

CLAIMS = [
    {
        "claim": "The contracts refuse a wrong metric.",
        "whose": "ours",
        "assert": "the contracts let a wrong metric pass",
        "control": "any metric would do",
    },
    {
        "claim": "K = 4√(z² + 4h²) gives the flow of z.",
        "whose": "ours",
        "assert": "the two flows part",
        "control": "any metric would do",
    },
]
