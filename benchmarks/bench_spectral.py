"""Cost of one spectral cometric_apply, in units of one SVD of the same matrix.

The closed forms of all linear families take one thin SVD and a few products of matrices. Both are
timed in turn, so that what else the machine does weighs on both; the smallest of several runs
counts.
"""

import platform
import subprocess

import numpy as np
from rich.console import Console
from rich.table import Table
from table import Row, hand_over, side_by_side

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
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    title = f"K(z) g at {SIZE}×{SIZE}, {platform.machine()}, commit {commit}"
    table = Table(title=title, title_justify="left")
    for column in ("family", "apply, ms", "SVD, ms", "ratio", "limit"):
        table.add_column(column, justify="left" if column == "family" else "right")
    worst, rows = 0.0, []
    for name, (network, lam) in families.items():
        theta0 = network.balanced_point(lam, 1)
        cometric, z = intrinsic_cometric(network, theta0), np.asarray(network.lift(theta0))
        own, svd = side_by_side(
            lambda c=cometric, z=z: c.apply(z, covector),
            lambda z=z: np.linalg.svd(z, full_matrices=False),
            repeats=REPEATS,
        )
        rows.append(Row(f"K(Z) g at {SIZE} × {SIZE}, {name}", own, svd, "one SVD", LIMIT))
        worst = max(worst, own / svd)
        table.add_row(name, f"{1e3 * own:.1f}", f"{1e3 * svd:.1f}", f"{own / svd:.2f}", f"{LIMIT}")
    Console().print(table)
    hand_over(rows)
    if worst > LIMIT:
        raise SystemExit(f"one apply costs {worst:.2f} SVDs, more than {LIMIT}")


if __name__ == "__main__":
    main()
