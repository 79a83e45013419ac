"""An evaluation of a product of architectures beside those of its factors, one after the other.

Of the lift, the laws, a pull-back, recovery, K(z) times a covector, and the velocity of the
intrinsic flow. Limit: the sum of
the factors plus 20 %, by the time of the processor, which what else the machine does leaves alone.
"""

import time
from collections.abc import Callable

import autograd.numpy as anp
import numpy as np
from table import Row, report

from liftflow import InvariantSet, intrinsic_cometric, loss_from_function
from liftflow.architectures import (
    Attention,
    DeepLinear,
    NormalisedNetwork,
    ProductArchitecture,
    ReLUNetwork,
    ScaleInvariant,
    TransformerBlock,
    TwoLayerLinear,
)
from liftflow.flows import IntrinsicFlow

REPEATS, ROUNDS, LIMIT = 150, 3, 1.2
PRODUCTS = {
    "attention 16-4-4": Attention(16, 4, 4),
    "ReLU network × two layers × directions": ProductArchitecture(
        ReLUNetwork.from_widths([8, 16, 8], bias=True),
        TwoLayerLinear(8, 8, 4),
        ScaleInvariant(8, 9),
    ),
    "transformer block 16-4-2-32": TransformerBlock(16, 4, 2, 32),
    "two ReLU networks": ProductArchitecture(
        ReLUNetwork.from_widths([16, 32, 10], bias=True), ReLUNetwork.from_widths([16, 16, 16, 4])
    ),
    "batch norm 16-32-10": NormalisedNetwork([16, 32, 10]),
    "four layers of a linear kind": ProductArchitecture(
        TwoLayerLinear(16, 16, 8),
        DeepLinear([8] * 4),
        TwoLayerLinear(8, 8, 2),
        ScaleInvariant(4, 9),
    ),
}


def in_turn(*sides: list[Callable[[], object]]) -> list[float]:
    """Least seconds of the processor that one call of all functions of a side takes."""
    least = [float("inf")] * len(sides)
    for _ in range(REPEATS):
        for number, functions in enumerate(sides):
            start = time.process_time()
            for _ in range(ROUNDS):
                for function in functions:
                    function()
            least[number] = min(least[number], (time.process_time() - start) / ROUNDS)
    return least


def velocity(invariant_set: InvariantSet) -> Callable[[], object]:
    """Return an evaluation of the intrinsic flow, each time at another point."""
    loss = loss_from_function(lambda z: anp.sum((z - 1.0) ** 2))
    state = IntrinsicFlow(invariant_set, loss, "full").state()
    point, calls = state.start(), iter(range(10**9))
    return lambda: state.velocity((1.0 + 1e-9 * next(calls)) * point)


def evaluations(invariant_set: InvariantSet) -> dict[str, Callable[[], object]]:
    """Return what is timed, by name."""
    architecture, theta = invariant_set.architecture, invariant_set.theta0
    z, cometric = architecture.lift(theta), intrinsic_cometric(architecture, theta)
    covector = np.random.default_rng(0).standard_normal(z.shape)
    laws = architecture.conservation_laws(theta)
    return {
        "φ(θ)": lambda: architecture.lift(theta),
        "h(θ)": lambda: architecture.conservation_laws(theta),
        "∂φᵀ g": lambda: architecture.lift_vjp(theta, covector),
        "recovery": lambda: architecture.recover(z, laws, near=1.01 * theta),
        "K(z) g": lambda: cometric.apply(z, covector, near=theta),
        "velocity": velocity(invariant_set),
    }


def main() -> None:
    """Print the table, and fail where a product costs more than its factors plus 20 %."""
    rows = []
    for name, product in PRODUCTS.items():
        theta = product.balanced_point(0.3, 0)
        own = evaluations(InvariantSet(product, theta))
        parts = zip(product.factors, product.unpack(theta), strict=True)
        each = [evaluations(InvariantSet(factor, part)) for factor, part in parts]
        for what, function in own.items():
            factors = [factor[what] for factor in each]
            whole, total = in_turn([function], factors)
            rows.append(Row(f"{what}, {name}", whole, total, "its factors", LIMIT))
    report(rows)


if __name__ == "__main__":
    main()
