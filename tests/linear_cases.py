"""Linear networks with a point where the metric property holds: thirty of each family.

Shapes, λ and seeds are drawn here once, from fixed seeds, by rules that share nothing with the
code under test; the shapes that the issue names come first.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from liftflow.architectures import (
    Attention,
    DeepLinear,
    LinearNeuralODE,
    ProductArchitecture,
    ReLUNetwork,
    TwoLayerLinear,
)

COUNT = 30


@dataclass(frozen=True)
class Case:
    """An architecture, the values that its laws take at θ₀, and how to draw θ₀.

    Attributes
    ----------
    name : str
    architecture : Architecture
    lams : tuple of float
        λ of each hidden layer or factor; ``a`` on the hyperbolic leaf.
    draw : callable
        Seed to θ on the invariant set of θ₀, always the same one.
    seed : int
    """

    name: str
    architecture: Any
    lams: tuple[float, ...]
    draw: Callable[[int], Any]
    seed: int

    @property
    def theta0(self):
        return self.draw(self.seed)


def _case(kind, sizes, architecture, lams, seed, draw=None):
    lams = tuple(float(lam) for lam in lams)
    values = ", ".join(f"{lam:.3g}" for lam in lams)
    name = f"{kind} {'-'.join(map(str, sizes))}, λ = {values or 'any'}, seed {seed}"
    if draw is None:
        value = lams if len(lams) > 1 else lams[0]

        def draw(seed):
            return architecture.balanced_point(value, seed)

    return Case(name, architecture, lams, draw, seed)


def is_intrinsic(n, m, r, lam):
    """Whether relaxed balanced points exist and have the metric property, two layers."""
    if lam == 0:
        return True
    outer, other = (n, m) if lam > 0 else (m, n)
    return r <= min(n, m) or (r == outer and outer >= other)


def two_layer(n, m, r, lam, seed):
    return _case("two layers", (n, m, r), TwoLayerLinear(n, m, r), (lam,), seed)


def _two_layers():
    named = [
        *((4, 3, 3, lam) for lam in (0.7, -0.7, 0.0)),
        *((3, 4, 3, lam) for lam in (0.7, -0.7, 0.0)),
        *((5, 3, 2, lam) for lam in (0.4, -0.4)),
        *((3, 5, 2, lam) for lam in (0.4, -0.4)),
        (2, 2, 5, 0.0),
        (4, 2, 4, 0.8),
        (2, 4, 4, -0.8),
    ]
    rng, found = np.random.default_rng(1), list(named)
    while len(found) < COUNT:
        n, m, r = (int(size) for size in rng.integers(1, 6, size=3))
        lam = round(float(rng.integers(-1, 2) * rng.uniform(0.2, 1.5)), 3)
        if is_intrinsic(n, m, r, lam) and n * m > 1 and (n, m, r, lam) not in found:
            found.append((n, m, r, lam))
    return [two_layer(*spec, seed) for seed, spec in enumerate(found)]


def deep(widths, lams, seed):
    return _case("deep", widths, DeepLinear(widths), lams, seed)


def _deep():
    named = [
        ((3, 3, 3, 3), (0.5, -1.2)),
        ((4, 2, 3), (0.0,)),
        ((2, 5, 4, 3), (0.0, 0.0)),
        ((2, 3, 3, 2), (1.0, -1.0)),  # a direction that is born and dies within the network
    ]
    rng, found = np.random.default_rng(2), list(named)
    while len(found) < COUNT:
        depth = int(rng.integers(2, 6))
        lams = np.round(rng.uniform(-1.0, 1.0, size=depth - 1), 3)
        kind = len(found) % 3
        if kind == 0:  # balanced, of any widths
            widths, lams = rng.integers(1, 6, size=depth + 1), 0.0 * lams
        elif kind == 1:  # square, with any λ
            widths = np.full(depth + 1, rng.integers(1, 5))
        else:  # wide layers and then narrow ones, or the other way round
            wide = int(rng.integers(1, depth + 1))
            narrow = int(rng.integers(1, 4))
            widths = np.where(np.arange(depth + 1) < wide, narrow + rng.integers(1, 3), narrow)
            # Where a wide layer feeds a wide or a narrow one, ker Z needs squares that grow
            # backwards: λ ≤ 0 there.
            lams = np.where(np.arange(1, depth) < wide, -np.abs(lams), lams)
            if rng.random() < 0.5:  # U_i ↦ U_{L+1−i}ᵀ takes λ_i to −λ_{L−i}
                widths, lams = widths[::-1], -lams[::-1]
        found.append((tuple(map(int, widths)), tuple(map(float, lams + 0.0))))
    return [deep(*spec, seed) for seed, spec in enumerate(found)]


def _ode():
    rng = np.random.default_rng(3)
    cases = []
    for seed in range(COUNT):
        n, n_steps = int(rng.integers(1, 5)), int(rng.integers(2, 13))
        lam = round(float(rng.uniform(-1.0, 1.5)), 3) if seed % 4 else 0.0
        network = LinearNeuralODE(n, n_steps)
        cases.append(_case("ode", (n, n_steps), network, (lam,), seed))
    return cases


def _attention():
    rng = np.random.default_rng(4)
    cases = []
    for seed in range(COUNT):
        d_model, n_heads = int(rng.integers(1, 5)), int(rng.integers(1, 3))
        d_head = int(rng.integers(1, d_model + 1)) if seed % 5 else d_model + 1
        lams = np.round(rng.uniform(-1.0, 1.0, size=2 * n_heads), 3) * (d_head <= d_model)
        attention = Attention(d_model, d_head, n_heads)
        sizes = (d_model, d_head, n_heads)
        cases.append(_case("attention", sizes, attention, lams + 0.0, seed))
    return cases


def _hyperbolic():
    rng = np.random.default_rng(5)
    cases = []
    for seed in range(COUNT):
        n, m, extra = (int(size) for size in rng.integers([1, 1, 0], [4, 4, 3]))
        m += n * m == 1  # n = m = 1 has a closed form at any S
        a = round(float(rng.uniform(0.2, 1.5)), 3)
        network = TwoLayerLinear(n, m, n + m + extra)
        draw = _hyperbolic_draw(network, a, seed)
        sizes = (n, m, network.r)
        cases.append(_case("hyperbolic", sizes, network, (a,), seed, draw))
    return cases


def _hyperbolic_draw(network, a, seed):
    frame = np.linalg.qr(np.random.default_rng(seed).standard_normal((network.r, network.r)))[0]

    def draw(other):
        # (WWᵀ)^½ Fᵀ has S = a F J Fᵀ, whatever W is on the leaf.
        theta = network.hyperbolic_point(a, other)
        weights = np.vstack(network.unpack(theta))
        left, values, _ = np.linalg.svd(weights, full_matrices=False)
        root = (left * values) @ left.T @ frame[:, : len(weights)].T
        return network.pack(root[: network.n], root[network.n :])

    return draw


def _scalar():
    cases = []
    for seed in range(COUNT):
        network = TwoLayerLinear(1, 1, 2 + seed % 4)
        theta0 = network.random_point(rng=seed)
        draw = _scalar_draw(network, theta0)
        cases.append(_case("scalar", (1, 1, network.r), network, (), seed, draw))
    return cases


def _scalar_draw(network, theta0):
    u, v = (np.ravel(block) for block in network.unpack(theta0))
    basis = np.linalg.qr(np.stack([u, v], axis=1))[0]

    def draw(other):
        # S = uuᵀ − vvᵀ stays where (u, v) turns hyperbolically in its plane.
        t = np.random.default_rng(other).uniform(-0.7, 0.7)
        x, y = np.cosh(t) * u + np.sinh(t) * v, np.sinh(t) * u + np.cosh(t) * v
        return network.pack((basis @ (basis.T @ x))[None], (basis @ (basis.T @ y))[None])

    return draw


def _products():
    rng, cases = np.random.default_rng(6), []
    pools = [TWO_LAYERS, DEEP, HYPERBOLIC, SCALAR]
    for seed in range(COUNT):
        parts = [pools[i][int(rng.integers(COUNT))] for i in rng.integers(4, size=2)]
        product = ProductArchitecture(*(part.architecture for part in parts))
        draw = _product_draw(product, parts)
        name = f"{seed}: product of {' and '.join(part.name for part in parts)}"
        cases.append(Case(name, product, (), draw, seed))
    return cases


def _product_draw(product, parts):
    return lambda seed: product.pack(*(part.draw(seed + i) for i, part in enumerate(parts)))


def mixed_product():
    """Return a ReLU network, two layers and a deep network side by side, with a θ₀."""
    network = ReLUNetwork.from_widths([2, 3, 2], bias=True)
    product = ProductArchitecture(network, TwoLayerLinear(3, 2, 2), DeepLinear([2, 2, 3, 2]))
    theta0 = product.pack(
        network.random_point(rng=1),
        product.factors[1].balanced_point(0.6, 2),
        product.factors[2].balanced_point([0.0, 0.0], 3),
    )
    return product, theta0


TWO_LAYERS, DEEP, ODE = _two_layers(), _deep(), _ode()
ATTENTION, HYPERBOLIC, SCALAR = _attention(), _hyperbolic(), _scalar()
PRODUCTS = _products()

BALANCED = [*TWO_LAYERS, *DEEP, *ODE]
"""Products of layers, with S_i = λ_i I."""

CLOSED = [*TWO_LAYERS, *DEEP, *ATTENTION, *HYPERBOLIC, *SCALAR, *PRODUCTS]
"""All whose closed form is exact, so all but the neural ODE on its grid."""


def params(cases, quick=1):
    """Return cases as pytest parameters named after them, all but each so many as slow ones."""
    return [
        pytest.param(case, id=case.name, marks=[pytest.mark.slow] if number % quick else [])
        for number, case in enumerate(cases)
    ]
