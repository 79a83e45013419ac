r"""
Three layers in closed form
===========================

With one neuron in each hidden layer, a three-layer ReLU network has the weights a (in), m and
c (out), and lifts to the matrix :math:`Z = a\,m\,c^\top`. To know K_θ₀(Z) one must split ‖Z‖ among
the layers, as the two laws :math:`h_1 = |a|^2 − m^2` and :math:`h_2 = m^2 − |c|^2` demand.

**Claim** [MPG]_: with :math:`x = |a|^2`, they demand
:math:`x (x − h_1)(x − h_1 − h_2) = ‖Z‖^2`, and of this cubic exactly one root makes all three
factors positive. Then

.. math:: K(Z)[G] = \frac{G Z^\top Z}{|a|^2} + \frac{⟨Z, G⟩ Z}{m^2} + \frac{Z Z^\top G}{|c|^2}.
"""

import autograd.numpy as anp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.animation import FuncAnimation

from liftflow import IntrinsicFlow, InvariantSet, ParameterFlow, ReLUNetwork, loss_from_function
from liftflow.figures import CONTROL, GREY, INTRINSIC, PARAMETER, ink, style
from liftflow.metrics import ScalarChainCometric

plt.style.use(style())

# %%
# Both flows
# ----------
#
# Two inputs and one output, so that z = (z₁, z₂) is drawn in the plane. The intrinsic flow uses
# the closed form: one root of a cubic, no iteration over θ.

network = ReLUNetwork.from_widths([2, 1, 1, 1])
theta0 = np.array([1.2, -0.4, 0.8, 1.2])  # a₁, a₂, m, c
closed_form = ScalarChainCometric(network, theta0)
target = np.array([1.2, 1.3])
loss = loss_from_function(lambda z: anp.sum(anp.array([0.5, 1.0]) * (z - target) ** 2))
settings = {"t_span": (0.0, 4.0), "rtol": 1e-8, "t_eval": 4.0 * np.linspace(0, 1, 61) ** 2}
by_theta = ParameterFlow(network, loss).integrate(theta0, **settings)
start = InvariantSet(network, theta0)
by_z = IntrinsicFlow(start, loss, "full", closed_form).integrate(**settings)

# %%
# The control: a rescaled θ₀, of the same z and other laws.

rescaled = network.rescale(theta0, [np.log(1.35), np.log(0.9)])
other_form = ScalarChainCometric(network, rescaled)

# %%
# The cubic, and the ellipses of K
# --------------------------------
#
# Left: the cubic for the laws of θ₀, with the value ‖Z‖² at four times, and the root that belongs
# to it, in the shaded part where all factors are positive. Circles mark the |a|² of training.
# Right: at each z, the ellipse is the image of
# one disc of gradients ∇f under K(z): how fast z can move there, and in which directions. Pale and
# wide, M(θ(t)) along training; dashed, the closed form at z(t); dotted, that of the other laws.

h1, h2 = start.laws0
turns = np.linspace(0, 2 * np.pi, 73)
disc = 0.06 * np.stack([np.cos(turns), np.sin(turns)])
z_of_theta = network.lift(by_theta.theta)
grams = network.gram_matrix(by_theta.theta)
forms, other_forms = (form.matrix(by_z.y) for form in (closed_form, other_form))
sizes = np.sum(by_z.y**2, axis=1)
first = int(np.argmin(sizes))  # from there on ‖Z‖ grows
wanted = np.linspace(sizes[first], sizes[first:].max(), 4)
shown = first + np.array([np.argmin(abs(sizes[first:] - size)) for size in wanted])


def real_roots(z):
    """Return the real roots x of the cubic for this z."""
    roots = np.roots(np.poly([0.0, h1, h1 + h2]) - [0.0, 0.0, 0.0, z @ z])
    return np.sort(roots[abs(roots.imag) < 1e-9].real)


def admissible(roots):
    """Return the roots that make all three factors positive."""
    return roots[roots > max(0.0, h1, h1 + h2)]


figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4.9))
LEFT, RIGHT = -0.75, 2.4
x = np.linspace(LEFT, RIGHT, 300)
left.plot(x, x * (x - h1) * (x - h1 - h2), color=ink())
for step, shade in zip(shown, np.linspace(0.35, 1.0, len(shown)), strict=True):
    z = by_z.y[step]
    (root,) = admissible(real_roots(z))
    left.plot([root, root, LEFT], [-0.5, z @ z, z @ z], "--", color=INTRINSIC, alpha=shade)
    left.plot(np.sum(by_theta.theta[step, :2] ** 2), z @ z, "o", color=PARAMETER, markersize=9)
    for matrix, look in (
        (grams[step], {"color": PARAMETER, "linewidth": 6, "alpha": 0.4}),
        (forms[step], {"color": INTRINSIC, "linestyle": "--", "linewidth": 1.6}),
        (other_forms[step], {"color": CONTROL, "linestyle": ":"}),
    ):
        right.plot(*(z[:, None] + matrix @ disc), **look)
left.plot([], [], "o", color=PARAMETER, markersize=9, label="|a|² of training")
left.plot([], [], "--", color=INTRINSIC, label="root of the cubic at ‖Z‖²")
left.set(title="the cubic x (x − h₁)(x − h₁ − h₂)", xlabel="x = |a|²", ylabel="‖Z‖²")
zeros = np.sort([0.0, h1, h1 + h2])
left.axvspan(zeros[-1], RIGHT, color=INTRINSIC, alpha=0.08, linewidth=0)
left.plot(zeros, 0 * zeros, "x", color=ink(), markersize=8, label="zeros of the factors")
left.set(xlim=(LEFT, RIGHT), ylim=(-1.2, 6.0))
left.axhline(0.0, color=GREY, linewidth=1)
left.legend(loc="upper left")
right.plot(*by_z.y.T, color=GREY, linewidth=1)
right.plot(*target, "*", color=ink(), markersize=13)
right.plot([], [], color=PARAMETER, linewidth=6, alpha=0.4, label="M(θ(t)) ∇f, |∇f| = 0.06")
right.plot([], [], "--", color=INTRINSIC, label="K(z(t)) ∇f")
right.plot([], [], ":", color=CONTROL, label="control: other laws")
right.set(title="the run, and K along it", xlabel="z₁", ylabel="z₂", aspect="equal")
right.set(xlim=(-0.1, 2.1), ylim=(-0.8, 1.8))
figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=3)
figure.suptitle(f"{network!r}, a quadratic loss, one θ₀", fontsize="small")
plt.show()

# %%
# The same in motion
# ------------------

moving, plane = plt.subplots(figsize=(5.4, 5.0))
plane.plot(*by_z.y.T, color=GREY, linewidth=1)
plane.plot(*target, "*", color=ink(), markersize=13)
(wide,) = plane.plot([], [], color=PARAMETER, linewidth=7, alpha=0.4, label="M(θ(t))")
(thin,) = plane.plot([], [], "--", color=INTRINSIC, label="K(z(t))")
(dotted,) = plane.plot([], [], ":", color=CONTROL, label="other laws")
plane.set(xlabel="z₁", ylabel="z₂", aspect="equal", xlim=right.get_xlim(), ylim=right.get_ylim())
moving.legend(loc="outside upper center", ncols=3)


def draw(step):
    """Draw the ellipses at one time."""
    for line, matrices in ((wide, grams), (thin, forms), (dotted, other_forms)):
        line.set_data(by_z.y[step][:, None] + matrices[step] @ disc)
    return wide, thin, dotted


animation = FuncAnimation(moving, draw, frames=len(by_z.t), interval=60)
plt.show()

# %%
# The claim, checked
# ------------------


def gap(matrices):
    """Return the largest distance from M(θ(t)), relative to its size."""
    return np.max(
        np.linalg.norm(matrices - grams, axis=(1, 2)) / np.linalg.norm(grams, axis=(1, 2))
    )


algebra = gap(closed_form.matrix(z_of_theta))  # at the z of training itself: no solver in between
control = gap(other_form.matrix(z_of_theta))
deviation = np.linalg.norm(by_z.y - z_of_theta, axis=1).max()
print(f"closed form against M(θ): {algebra:.0e}, with other laws {control:.1f}")
print(f"distance of the two flows {deviation:.0e}")
for step in shown:
    roots = admissible(real_roots(z_of_theta[step]))
    assert roots.size == 1, "another root than one, or none"
    assert np.isclose(roots[0], np.sum(by_theta.theta[step, :2] ** 2), rtol=1e-6), "another root"

inner = real_roots(0.01 * z_of_theta[0])  # at a small ‖Z‖ all three roots are real
assert inner.size == 3 and admissible(inner).size == 1, "any root would do"

# The laws of θ(t) drift by a few times the tolerance of 1e-8, and K with them.
assert algebra < 1e-6, "K is no function of z"
assert deviation < 1e-6, "the two flows part"
assert control > 0.1, "any laws would do"

CLAIMS = [
    {
        "claim": "Of the cubic exactly one root makes all factors positive, and it is |a|².",
        "whose": "MPG",
        "assert": "another root",
        "control": "any root would do",
    },
    {
        "claim": "There is no other such root at any of the four times.",
        "whose": "MPG",
        "assert": "another root than one, or none",
        "control": "any root would do",
    },
    {
        "claim": "K is a function of z, by that root.",
        "whose": "MPG",
        "assert": "K is no function of z",
        "control": "any laws would do",
    },
    {
        "claim": "The flow by the closed form is the image of training.",
        "whose": "MPG",
        "assert": "the two flows part",
        "control": "any laws would do",
    },
]
