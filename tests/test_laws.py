"""Conservation laws: how many there are, by floats and exactly, and the polynomials themselves."""

from fractions import Fraction
from functools import cache

import autograd.numpy as anp
import numpy as np
import pytest
from linear_counts import known_laws, small_widths

from liftflow import (
    Architecture,
    ReLUNetwork,
    classify,
    count_conservation_laws,
    discover_laws,
)
from liftflow.architectures import Attention, DeepLinear, LinearNeuralODE, TwoLayerLinear
from liftflow.criteria import Verdict, laws_complete, lie_algebra_dimension
from liftflow.criteria.fields import FLOATS, Arithmetic, GradientFields, gradient_fields
from liftflow.criteria.network_fields import LinearFields

PEERS = {  # Marcotte et al. 2023, and the edges that were found beyond them
    (5, 3, 2): 6,
    (5, 5, 4, 4, 5): 35,
    (3, 4, 2, 4): 13,
    (2, 2, 2): 3,
    (4, 2, 5): 3,
    (3, 2, 3, 3): 9,
    (1, 3, 1): 5,
    (2, 6, 2): 18,
    (1, 4, 4, 1): 23,
}


class Convolution(Architecture):
    """Full convolution of two filters, a linear network with shared weights; defines lift only."""

    def __init__(self, p, q):
        super().__init__(p + q, (p + q - 1,), block_shapes=[(p,), (q,)])
        self.p = p
        table = np.zeros((p, q, p + q - 1))
        for i, j in np.ndindex(p, q):
            table[i, j, i + j] = 1
        self.table = table

    def lift(self, theta):
        left, right = theta[..., : self.p], theta[..., self.p :]
        return anp.einsum("...i,...j,ijk->...k", left, right, self.table)


@pytest.mark.parametrize(("widths", "count"), PEERS.items(), ids=str)
def test_counts_of_the_peers(widths, count):
    network = DeepLinear(widths)
    found = count_conservation_laws(network)
    assert (found.value, found.verdict) == (count, "holds")
    assert known_laws(widths) == count
    exact = count_conservation_laws(network, exact=True)
    assert (exact.value, exact.verdict, exact.tolerance) == (count, "holds", 0.0)
    assert 0 < exact.witness["error_bound"] < 1e-10


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_small_linear_networks_by_floats_and_exactly(depth, rng):
    # All of them take a minute; benchmarks/bench_laws.py --small does that.
    widths = small_widths(depth)
    for number in rng.choice(len(widths), size=10, replace=False):
        network = DeepLinear(widths[number])
        floats = count_conservation_laws(network)
        assert floats.verdict is Verdict.HOLDS
        assert floats.value == known_laws(widths[number]), widths[number]
        assert count_conservation_laws(network, exact=True).value == floats.value


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("widths", [(8, 6, 8), (6, 4, 2, 3, 6), (8, 5, 8, 5, 8), (1, 3, 3, 1)])
def test_relu_networks_have_one_law_per_hidden_node(widths, bias):
    network = ReLUNetwork.from_widths(widths, bias)
    found = count_conservation_laws(network)
    assert (found.value, found.verdict) == (sum(widths[1:-1]), "holds")
    assert sum(found.witness["levels"][1:]) == 0  # brackets add nothing
    if network.dim < 60:
        assert count_conservation_laws(network, exact=True).value == found.value


def test_known_laws_of_a_scalar_network_are_not_all():
    network = DeepLinear([1, 4, 4, 1])
    found = laws_complete(network, network.random_point(rng=0))
    assert (found.verdict, found.value, found.witness["missing"]) == ("fails", 3, 3)
    network = DeepLinear([1, 3, 1])  # rounding in brackets that vanish must not count
    dimension = lie_algebra_dimension(network, network.random_point(rng=0))
    assert (dimension.value, dimension.verdict) == (1, "holds")


def test_counts_add_up_over_factors():
    attention = Attention(3, 2, 2)
    assert count_conservation_laws(attention).value == 4 * 3
    assert count_conservation_laws(attention, exact=True).value == 4 * 3
    assert laws_complete(attention, attention.random_point(rng=0)).verdict == "holds"


def test_an_architecture_with_a_lift_alone():
    convolution = Convolution(3, 2)
    assert count_conservation_laws(convolution).value == 1
    assert laws_complete(convolution, convolution.random_point(rng=0)).verdict == "fails"


# The fields and brackets behind the counts, against a second implementation and differences.


@pytest.mark.parametrize(
    "network",
    [
        DeepLinear([2, 3, 2, 2]),
        TwoLayerLinear(2, 3, 2),
        ReLUNetwork.from_widths([2, 2, 2], True),
        ReLUNetwork.recurrent(2, 2, 1, 2),
    ],
    ids=["deep", "two layers", "ReLU", "recurrent"],
)
def test_brackets_agree_with_autograd(network, rng):
    theta, count = network.random_point(rng=rng), network.lifted_dim
    orders, count = rng.integers(count, size=(3, 200)), 200
    results = []
    for fields in (gradient_fields(network), GradientFields(network)):
        point = fields.point(theta)
        forms = [fields.basis_forms(order) for order in orders]
        parts = [fields.values(forms[0], point, count)]
        parts += [fields.brackets(forms[:depth], point, count) for depth in (2, 3)]
        assert all(np.linalg.norm(part) > 1e-2 for part in parts)
        vectors = np.concatenate(parts)
        results.append(vectors @ vectors.T)  # coordinates may be permuted
    np.testing.assert_allclose(results[0], results[1], rtol=0, atol=1e-12 * results[1].max())


def test_brackets_agree_with_differences(rng):
    fields = gradient_fields(ReLUNetwork.from_widths([2, 2, 2]))
    point = rng.standard_normal(8)
    first, second = (fields.random_forms(1, point, rng) for _ in range(2))
    x, y = (fields.values(form, point, 1)[0] for form in (first, second))
    h = 1e-5

    def slope(form, v):
        ends = [fields.values(form, point + s * h * v, 1)[0] for s in (1, -1)]
        return (ends[0] - ends[1]) / (2 * h)

    bracket = fields.brackets([first, second], point, 1)  # [X_2, X_1] = ∂X_1 X_2 − ∂X_2 X_1
    assert np.linalg.norm(bracket) > 0.1
    np.testing.assert_allclose(bracket[0], slope(first, y) - slope(second, x), rtol=0, atol=1e-7)


def test_residues_agree_with_integers(rng):
    network, prime = DeepLinear([2, 2, 2, 2]), 2**31 - 1
    small = rng.integers(-3, 4, size=(3, 12))
    results = []
    for arithmetic in (FLOATS, Arithmetic(prime)):
        fields = LinearFields(network, arithmetic)
        kind = np.int64 if arithmetic.exact else float
        forms = [row[None, :4].astype(kind) for row in small]  # two sources and two sinks
        results.append(fields.brackets(forms, small[0].astype(kind), 1))
    assert np.array_equal(np.mod(results[0], prime), results[1])
    assert np.abs(results[0]).max() > 10


# Polynomials.


def as_terms(law):
    return dict(law.terms)


def test_laws_of_two_layers_are_those_of_the_paper():
    network = TwoLayerLinear(2, 3, 2)
    found = discover_laws(network)
    assert (found.verdict, len(found), found.n_independent) == ("holds", 3, 3)
    u, v = np.arange(4).reshape(2, 2), 4 + np.arange(6).reshape(3, 2)
    for law, (k, l) in zip(found, [(0, 0), (0, 1), (1, 1)], strict=True):  # UᵀU − VᵀV
        wanted = {(int(row[k]), int(row[l])): Fraction(1) for row in u}
        wanted |= {(int(row[k]), int(row[l])): Fraction(-1) for row in v}
        assert as_terms(law) == wanted
    assert str(found.laws[1]) == (
        "U[0,0] U[0,1] + U[1,0] U[1,1] − V[0,0] V[0,1] − V[1,0] V[1,1] − V[2,0] V[2,1]"
    )


@pytest.mark.parametrize("bias", [False, True])
def test_laws_of_a_relu_network_are_found_node_by_node(bias):
    network = ReLUNetwork.from_widths([2, 2, 2, 1], bias)
    found = discover_laws(network)
    matrix = network.dag.channels.law_matrix.toarray()
    wanted = [{(e, e): Fraction(int(c)) for e, c in enumerate(row) if c} for row in matrix]
    assert sorted(map(str, map(as_terms, found))) == sorted(map(str, wanted))
    assert "θ[(0, 0)→(1, 0)]²" in str(found)


def test_laws_of_attention_and_of_deep_networks():
    found = discover_laws(Attention(2, 2, 1))
    assert (len(found), found.n_independent) == (6, 6)
    assert str(found.laws[0]) == "Q0[0,0]² + Q0[1,0]² − K0[0,0]² − K0[1,0]²"
    network = DeepLinear([2, 2, 1, 2])
    found = discover_laws(network)
    assert (len(found), found.n_independent) == (4, known_laws([2, 2, 1, 2]))


def test_laws_of_convolutions():
    found = discover_laws(Convolution(3, 2), labels=["a", "b", "c", "p", "q"])
    assert [str(law) for law in found] == ["a² + b² + c² − p² − q²"]
    quartic = discover_laws(Convolution(2, 2), degree=4)
    assert (len(quartic), quartic.n_independent) == (2, 1)  # h and h²


def test_unknown_laws_of_a_scalar_network_are_found():
    found = discover_laws(TwoLayerLinear(1, 1, 2))  # one function: D − 1 laws, and S has three
    assert "U[0,0] V[0,1] − U[0,1] V[0,0]" in map(str, found)
    assert (len(found), found.n_independent) == (4, 3)


def test_discovered_laws_are_conserved(rng):
    network = DeepLinear([2, 2, 1, 2])
    theta, form = network.random_point(3, rng), rng.standard_normal((3, 2, 2))
    field = network.lift_vjp(theta, form)
    for law in discover_laws(network):
        gradient = law.gradient(theta)
        assert np.abs(np.sum(gradient * field, axis=1)).max() < 1e-13
        ends = [law(theta + s * 1e-6 * field) for s in (1, -1)]
        assert np.abs(ends[0] - ends[1]).max() < 1e-13
    wrong = type(law)(law.terms[1:], law.labels)  # one term less is no law
    assert np.abs(np.sum(wrong.gradient(theta) * field, axis=1)).max() > 1e-2


def test_laws_that_are_not_rational_are_left_open():
    found = discover_laws(LinearNeuralODE(1, 3))  # θ = A/√3 brings roots in
    assert (found.verdict, len(found)) == ("undecided", 0)
    assert "not rational" in found.reason


class Scalar(Architecture):
    """One number of two parameters."""

    def __init__(self, function):
        super().__init__(2, (1,))
        self.function = function

    def lift(self, theta):
        return self.function(theta[..., 0], theta[..., 1])[..., None]


@pytest.mark.parametrize("size", [1.0, 1e-200, 1e150])
def test_laws_where_fields_vanish_at_half_of_all_points(size):
    found = discover_laws(Scalar(lambda x, y: size * anp.maximum(x, 0) * y))
    assert (str(found.verdict), [str(law) for law in found]) == ("holds", ["θ[0]² − θ[1]²"])
    found = discover_laws(Scalar(lambda x, y: size * anp.maximum(x, 0) * y**2))
    assert [str(law) for law in found] == ["θ[0]² − 1/2 θ[1]²"]  # x' = y², y' = 2xy


def test_laws_of_a_constant_are_all_polynomials():
    found = discover_laws(Scalar(lambda x, y: 0 * x + 3))
    assert [str(law) for law in found] == ["θ[0]", "θ[1]", "θ[0]²", "θ[0] θ[1]", "θ[1]²"]
    assert (str(found.verdict), found.n_independent) == ("holds", 2)


def test_laws_where_fields_vanish_nearly_everywhere_are_left_open():
    found = discover_laws(Scalar(lambda x, y: anp.maximum(x - 1.7, 0) * y), degree=3)
    assert (str(found.verdict), len(found)) == ("undecided", 0)
    assert "vanish at most points" in found.reason


class Components(Architecture):
    """Two components with units of their own: x y, and s times another product."""

    def __init__(self, unit, other):
        super().__init__(3, (2,))
        self.unit, self.other = unit, other

    def lift(self, theta):
        one = theta[..., 0] * theta[..., 1]
        other = theta[..., 1] * theta[..., 2] if self.other else one + 0.0 * theta[..., 2]
        return anp.stack([one, self.unit * other], axis=-1)


@cache
def laws_of(unit, other):
    return [str(law) for law in discover_laws(Components(unit, other))]


@pytest.mark.parametrize("unit", [1e-12, 1e-10, 1e-6, 1.0, 1e9, 1e12])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_components_with_units_of_their_own(unit, scale):
    # ∇(x y) and ∇(y z) leave x² − y² + z² alone, and their bracket is (z, 0, −x).
    network, theta = Components(unit, True), scale * np.array([1.0, 0.5, 0.7])
    assert laws_of(unit, True) == ["θ[0]² − θ[1]² + θ[2]²"]
    count, spanned = count_conservation_laws(network), lie_algebra_dimension(network, theta)
    assert (count.value, count.verdict, spanned.value) == (1, "holds", 2)
    found = classify(network, theta)
    assert (found.recoverable.verdict, found.metric.verdict) == ("holds", "holds")
    assert (found.commuting.verdict, found.frobenius.verdict) == ("fails", "holds")
    # The control: one product twice.
    twice = Components(unit, False)
    assert {*laws_of(unit, False)} == {"θ[0]² − θ[1]²", "θ[2]", "θ[2]²"}
    assert count_conservation_laws(twice).value == 2
    assert lie_algebra_dimension(twice, theta).value == 1
