"""The commands that decide: which properties hold at a point, and which laws there are."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import networkx as nx
import typer
from rich.console import Console
from rich.text import Text

from liftflow import criteria
from liftflow.architectures import (
    Architecture,
    Attention,
    DeepLinear,
    LinearNeuralODE,
    ReLUNetwork,
    TwoLayerLinear,
)
from liftflow.errors import DataError, InputError, LiftflowError
from liftflow.typing import FloatArray

_SIZES = {
    "relu": "4-6-3",
    "two-layer": "3-2-3",
    "deep": "3-3-3-3",
    "ode": "2-5",
    "attention": "3-2-1",
}
"""Families, with their sizes by default."""

Family = Annotated[str, typer.Option(help=f"{', '.join(_SIZES)}.")]
Widths = Annotated[
    str | None,
    typer.Option(
        help="Layer widths from input to output, like 4-6-3; for ode the size and the number of "
        "steps; for attention d_model, d_head and the number of heads.",
        show_default="by family",
    ),
]
Bias = Annotated[bool, typer.Option("--bias", help="Biases on hidden and output nodes; relu.")]
Graph = Annotated[
    Path | None,
    typer.Option(
        help="A ReLU network instead of a family: a file in the node-link JSON of networkx. Its "
        "sources are the inputs and its sinks the outputs; nodes with an attribute bias have one; "
        "the attributes weight and bias are θ where all are there.",
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of θ and of all random combinations.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Exact = Annotated[bool, typer.Option("--exact", help="Count the laws over prime fields.")]


@contextmanager
def _reported() -> Iterator[None]:
    try:
        yield
    except LiftflowError as error:
        message = Text.assemble((f"{type(error).__name__}:", "red"), f" {error}")
        Console(stderr=True).print(message, soft_wrap=True)
        raise typer.Exit(2) from None


def classify(
    family: Family = "relu",
    widths: Widths = None,
    graph: Graph = None,
    lam: Annotated[
        str | None,
        typer.Option(
            help="λ of a relaxed balanced θ: one for all, or several joined by commas; not for "
            "relu.",
            show_default="a generic θ",
        ),
    ] = None,
    bias: Bias = False,
    exact: Exact = False,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Decide the hierarchy at θ: recoverable, metric, dynamic, Frobenius, commuting, laws."""
    with _reported():
        architecture, given = _architecture(family, widths, graph, bias)
        theta = given if given is not None else _point(architecture, lam, seed)
        found = criteria.classify(architecture, theta, exact, rng=seed)
        if as_json:
            typer.echo(json.dumps(found.to_dict(), indent=2, allow_nan=False, ensure_ascii=False))
        else:
            Console().print(found.table())


def laws(
    family: Family = "relu",
    widths: Widths = None,
    graph: Graph = None,
    bias: Bias = False,
    degree: Annotated[int, typer.Option(help="Largest degree of the polynomials.")] = 2,
    exact: Exact = False,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Count the conservation laws, and find all that are polynomials up to a degree."""
    with _reported():
        architecture, _ = _architecture(family, widths, graph, bias)
        count = criteria.count_conservation_laws(architecture, exact, rng=seed)
        found = criteria.discover_laws(architecture, degree, rng=seed)
        if as_json:
            record = {"count": count.to_dict(), "polynomials": found.to_dict()}
            typer.echo(json.dumps(record, indent=2, allow_nan=False, ensure_ascii=False))
        else:
            console = Console()
            title = f"{count.value} independent conservation laws ({count.verdict})"
            console.print(Text(f"{title}: {count.reason}"), soft_wrap=True)
            console.print(Text(str(found)), soft_wrap=True)


def _architecture(
    family: str, widths: str | None, graph: Path | None, bias: bool
) -> tuple[Architecture, FloatArray | None]:
    """Build what was asked for, with the θ that a graph file may hold."""
    if graph is not None:
        if widths is not None or bias:
            raise InputError("a graph file has its own nodes and biases; leave --widths and --bias")
        return _read_graph(graph)
    if family not in _SIZES:
        raise InputError(f"family must be one of {', '.join(_SIZES)}, got {family!r}")
    if bias and family != "relu":
        raise InputError(f"the family {family} has no biases; leave --bias")
    text = widths or _SIZES[family]
    try:
        sizes = [int(part) for part in text.split("-")]
    except ValueError:
        raise DataError(f"widths must be numbers joined by '-', got {text!r}") from None
    wanted = {"two-layer": 3, "ode": 2, "attention": 3}.get(family, len(sizes))
    if len(sizes) != wanted:
        raise DataError(f"the family {family} has {wanted} sizes, like {_SIZES[family]}: {text!r}")
    if family == "relu":
        return ReLUNetwork.from_widths(sizes, bias), None
    if family == "two-layer":
        return TwoLayerLinear(sizes[2], sizes[0], sizes[1]), None
    builders: dict[str, Any] = {"ode": LinearNeuralODE, "attention": Attention}
    return builders[family](*sizes) if family in builders else DeepLinear(sizes), None


def _point(architecture: Any, lam: str | None, seed: int) -> FloatArray:
    if lam is None:
        return architecture.random_point(rng=seed)
    if isinstance(architecture, ReLUNetwork):
        raise InputError("a ReLU network has no λ; leave --lam")
    try:
        lams = [float(part) for part in lam.split(",")]
    except ValueError:
        raise DataError(f"λ must be numbers joined by ',', got {lam!r}") from None
    return architecture.balanced_point(lams[0] if len(lams) == 1 else lams, seed)


def _read_graph(path: Path) -> tuple[ReLUNetwork, FloatArray | None]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        edges = "edges" if "edges" in data else "links"
        graph = nx.node_link_graph(data, edges=edges)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, nx.NetworkXError) as error:
        raise DataError(
            f"{path} holds no graph ({type(error).__name__}: {error}); write one with "
            "json.dump(networkx.node_link_data(graph), file)"
        ) from error
    if not graph.is_directed():
        raise DataError(f"{path} holds an undirected graph; a network is a networkx.DiGraph")
    inputs = [node for node, degree in graph.in_degree() if degree == 0]
    outputs = [node for node, degree in graph.out_degree() if degree == 0 and node not in inputs]
    biases = [node for node in graph if "bias" in graph.nodes[node] and node not in inputs]
    network = ReLUNetwork(graph, inputs, outputs, biases)
    complete = all("weight" in attributes for *_, attributes in graph.edges(data=True))
    return network, network.read_weights() if complete else None
