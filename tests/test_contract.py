"""The public names that scripts outside the repository call, as design.md writes them."""

import inspect
from importlib import import_module

import pytest

from liftflow.architectures import (
    Attention,
    Conv,
    DeepLinear,
    LinearNeuralODE,
    Pool,
    ReLUNetwork,
    SampledForward,
    TransformerBlock,
    TwoLayerLinear,
)
from liftflow.criteria import (
    count_conservation_laws,
    discover_laws,
)
from liftflow.flows import (
    GradientDescent,
    TrainingRule,
    compare,
    law_drift,
)
from liftflow.losses import loss_from_parameters

SIGNATURES = {
    "ReLUNetwork": (ReLUNetwork.__init__, ["graph", "inputs", "outputs", "biases"]),
    "residual": (ReLUNetwork.residual, ["widths", "skips", "bias", "identity"]),
    "convolutional": (
        ReLUNetwork.convolutional,
        ["image_shape", "layers", "n_outputs", "bias"],
    ),
    "recurrent": (
        ReLUNetwork.recurrent,
        ["n_inputs", "n_hidden", "n_outputs", "n_steps", "bias"],
    ),
    "from_layers": (ReLUNetwork.from_layers, ["weights", "biases", "torch_layout"]),
    "Conv": (Conv, ["channels", "kernel", "stride", "padding", "groups"]),
    "Pool": (Pool, ["kind", "size"]),
    "TransformerBlock": (TransformerBlock, ["d_model", "d_head", "n_heads", "d_mlp"]),
    "SampledForward": (SampledForward, ["forward", "dim", "inputs"]),
    "count": (count_conservation_laws, ["architecture", "exact", "loss"]),
    "discover": (discover_laws, ["architecture", "degree", "loss"]),
    "TrainingRule": (TrainingRule, ["learning_rates", "weight_decay"]),
    "GradientDescent": (
        GradientDescent,
        ["architecture", "loss", "step_size", "momentum", "batch_size", "weight_decay", "schedule"],
    ),
    "loss_from_parameters": (loss_from_parameters, ["ell", "architecture"]),
    "law_drift": (law_drift, ["architecture"]),
    "compare": (compare, ["invariant_set", "loss", "t_span", "rule"]),
    "run": (GradientDescent.run, ["theta0", "n_steps", "rng"]),
    "recover": (ReLUNetwork.recover, ["z", "laws", "near"]),
    "random_point": (ReLUNetwork.random_point, ["n_samples", "rng"]),
    "TwoLayerLinear": (TwoLayerLinear, ["n", "m", "r"]),
    "DeepLinear": (DeepLinear, ["widths"]),
    "LinearNeuralODE": (LinearNeuralODE, ["n", "n_steps"]),
    "Attention": (Attention, ["d_model", "d_head", "n_heads"]),
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_arguments_have_the_names_and_the_order_that_scripts_give_them(name):
    called, wanted = SIGNATURES[name]
    own = [argument for argument in inspect.signature(called).parameters if argument != "self"]
    assert [argument for argument in own if argument in wanted] == wanted


NAMES = {
    "architectures": "Architecture ReLUNetwork TwoLayerLinear DeepLinear LinearNeuralODE Attention "
    "ProductArchitecture TransformerBlock SampledForward ChannelGraph Conv Pool",
    "manifolds": "InvariantSet",
    "metrics": "intrinsic_cometric RecoveredCometric",
    "criteria": "classify recoverability kernel_inclusion frobenius commuting laws_complete "
    "lie_algebra_dimension count_conservation_laws discover_laws",
    "losses": "loss_from_function loss_from_parameters NetworkLoss",
    "flows": "ParameterFlow IntrinsicFlow compare sweep TrainingRule GradientDescent Adam "
    "Trajectory law_drift",
    "testing": "check_architecture check_metric check_manifold check_bundle",
}


@pytest.mark.parametrize(
    ("room", "name"), [(r, n) for r, own in NAMES.items() for n in own.split()]
)
def test_names_are_where_scripts_look_for_them(room, name):
    assert hasattr(import_module(f"liftflow.{room}"), name)


def test_members_of_networks():
    network = ReLUNetwork.from_widths([2, 3, 1])
    wanted = "graph n_paths paths n_hidden forward basis_chart channels prune to_layers with_laws"
    wanted += " dim lifted_shape n_laws lift lift_jvp lift_vjp lift_jacobian gram_apply gram_matrix"
    wanted += " conservation_laws conservation_laws_jacobian recover pack unpack random_point"
    assert [name for name in wanted.split() if not hasattr(network, name)] == []
    assert network.n_laws == network.channels.n_channels == 3
    assert network.channels.incidence.shape == (network.dim, 3)
    assert len(network.channels.members) == 3
