"""Cost of one spectral cometric_apply, in units of one SVD of the same matrix.

The closed forms of all linear families take one thin SVD and a few products of matrices. Both are
timed in turn, so that what else the machine does weighs on both; the smallest of several runs
counts.
"""

import numpy as np
from table import Row, report, side_by_side

from liftflow.architectures import DeepLinear, LinearNeuralODE, TwoLayerLinear
from liftflow.metrics import intrinsic_cometric

SIZE, REPEATS, LIMIT = 200, 15, 4.0


def main() -> None:
    """Print the table, and fail where the ratio is above the limit."""
    rng = np.random.default_rng(0)
    covector = rng.standard_normal((SIZE, SIZE))
    families = {
        "two layers, λ = 0.7": (TwoLayerLinear(SIZE, SIZE, SIZE), 0.7),
        "two layers, rank 50": (TwoLayerLinear(SIZE, SIZE, 50), -0.3),
        "deep, 4 layers": (DeepLinear([SIZE] * 5), (0.1, 0.2, -0.1)),
        "infinite depth": (LinearNeuralODE(SIZE, 2), 0.0),
    }
    rows = []
    for name, (network, lam) in families.items():
        theta0 = network.balanced_point(lam, 1)
        cometric, z = intrinsic_cometric(network, theta0), np.asarray(network.lift(theta0))
        own, svd = side_by_side(
            lambda c=cometric, z=z: c.apply(z, covector),
            lambda z=z: np.linalg.svd(z, full_matrices=False),
            repeats=REPEATS,
        )
        rows.append(Row(f"K(Z) g at {SIZE} × {SIZE}, {name}", own, svd, "one SVD", LIMIT))
    report(rows)


if __name__ == "__main__":
    main()
