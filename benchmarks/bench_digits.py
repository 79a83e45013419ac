"""A run that people recognise: the 1,797 digits on 64-128-128-10, in basis coordinates, to the end.

Both flows are integrated, so that the deviation is known. Fails below 95 % accuracy, above ten
minutes, or where the flows part.
"""

from table import Row, report

from liftflow import InvariantSet, NetworkLoss, ReLUNetwork, compare
from liftflow.data import load

ACCURACY, SECONDS, DEVIATION = 0.95, 600.0, 0.01


def main() -> None:
    """Train, and print the row."""
    digits = load("digits")
    network = ReLUNetwork.from_widths([64, 128, 128, 10])
    labels = digits.targets_for("cross-entropy")
    loss = NetworkLoss(network, digits.inputs, labels, "cross-entropy")
    start = InvariantSet(network, network.random_point(rng=0))
    run = compare(start, loss, (0.0, 20.0), rtol=1e-4, atol=1e-6, coordinates="basis", n_times=21)
    figures = run.summary()
    accuracy, deviation = figures["accuracy_intrinsic"], run.max_deviation
    report(
        [
            Row(
                f"digits on 64-128-128-10 by z in basis coordinates, rtol 1e-4: {accuracy:.1%} "
                "right, error = deviation",
                figures["seconds_intrinsic"],
                None,
                f"training by θ: {figures['seconds_parameter']:.3g} s",
                SECONDS,
                deviation,
            )
        ]
    )
    if accuracy < ACCURACY or deviation > DEVIATION or not run.success:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
