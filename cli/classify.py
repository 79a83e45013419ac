"""The commands that decide: which properties hold at a point, and which laws there are."""

import json
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

import liftflow
from liftflow.cli.families import FAMILIES, balanced, find, readers
from liftflow.errors import DataError, InputError, listed

if TYPE_CHECKING:
    from liftflow.architectures import Architecture, ReLUNetwork
    from liftflow.typing import FloatArray

Family = Annotated[str | None, typer.Option(help=f"{', '.join(FAMILIES)}.", show_default="relu")]
Widths = Annotated[
    str | None,
    typer.Option(
        help="Layer widths from input to output, like 4-6-3; for ode the size and the number of "
        "steps; for attention d_model, d_head and the number of heads, for transformer neurons; "
        "for conv side, channels, outputs; for residual inputs, width, blocks, outputs; for "
        "recurrent inputs of a step, hidden units, outputs, steps.",
        show_default="by family",
    ),
]
BIASES = f"Biases on hidden and output nodes; {readers('bias')}."
Bias = Annotated[bool, typer.Option("--bias", help=BIASES)]
Graph = Annotated[
    Path | None,
    typer.Option(
        help="A ReLU network instead of a family: a file in the node-link JSON of networkx. Its "
        "sources are the inputs and its sinks the outputs; nodes with an attribute bias have one; "
        "the attributes weight and bias are θ, of all edges or of none. Others make weights shared "
        "(parameter) or constant (frozen), and other units (activation); see ReLUNetwork."
    ),
]
Module = Annotated[
    str | None,
    typer.Argument(
        metavar="[FILE.py:FUNCTION]",
        help="A function of no arguments in a Python file, which is run. It returns a module of "
        "PyTorch and an example of its inputs.",
    ),
]
LAM = "λ of a relaxed balanced θ: one for all, or several joined by commas; not for relu."
Seed = Annotated[int, typer.Option(min=0, help="Seed of θ and of all random combinations.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Exact = Annotated[bool, typer.Option("--exact", help="Count the laws over prime fields.")]
_QUICK = "Double precision alone: what it hides at scales far apart is undecided."
_ATTRIBUTES = {"activation", "bias", "frozen", "parameter", "weight", "slope", "degree"}
_ATTRIBUTES |= {"bias_frozen", "bias_parameter"}


def _print_json(record: dict[str, Any]) -> None:
    typer.echo(json.dumps(record, indent=2, allow_nan=False))  # in ASCII, which any terminal has


def classify(
    family: Family = None,
    widths: Widths = None,
    graph: Graph = None,
    lam: Annotated[str | None, typer.Option(help=LAM, show_default="a generic θ")] = None,
    bias: Bias = False,
    exact: Exact = False,
    seed: Seed = 0,
    as_json: AsJson = False,
    quick: Annotated[bool, typer.Option("--quick", help=_QUICK)] = False,
) -> None:
    """Decide the hierarchy at θ: recoverable, metric, dynamic, Frobenius, commuting, laws."""
    architecture, theta, what = _architecture(family, widths, graph, bias)
    if lam is not None and isinstance(architecture, liftflow.ReLUNetwork):
        raise InputError("a ReLU network has no λ; leave --lam")
    if theta is not None:
        what += ", θ of the file"
    elif lam is None:
        what += f", random θ of seed {seed}"
        theta = architecture.random_point(rng=seed)
    else:
        what += f", balanced θ of seed {seed}, λ {lam}"
        theta = balanced(architecture, lam, seed)
    console = Console()
    progress = console.is_terminal and not as_json
    found = liftflow.classify(architecture, theta, exact, quick=quick, progress=progress, rng=seed)
    if as_json:
        _print_json({"data": what, **found.to_dict()})
    else:
        console.print(Text(what), soft_wrap=True)
        console.print(found.table())


def laws(
    module: Module = None,
    family: Family = None,
    widths: Widths = None,
    graph: Graph = None,
    bias: Bias = False,
    degree: Annotated[int, typer.Option(help="Largest degree of the polynomials.")] = 2,
    exact: Exact = False,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Count the conservation laws, and find all that are polynomials up to a degree.

    Of a module of PyTorch, print those of its channels, layer by layer.
    """
    if module is not None:
        if graph is not None or family is not None or widths is not None or bias or exact:
            raise InputError(
                "a module has its own layers; leave --family, --widths, --bias, --graph and --exact"
            )
        from liftflow.torch.command import module_laws  # an extra

        print(module_laws(module, seed, as_json))
        return
    architecture, _, what = _architecture(family, widths, graph, bias)
    count = liftflow.count_conservation_laws(architecture, exact, rng=seed)
    found = liftflow.discover_laws(architecture, degree, rng=seed)
    if as_json:
        _print_json({"data": what, "count": count.to_dict(), "polynomials": found.to_dict()})
    else:
        console = Console()
        title = f"{count.value} independent conservation laws ({count.verdict}) of {what}"
        console.print(Text(f"{title}: {count.reason}"), soft_wrap=True)
        console.print(Text(str(found)), soft_wrap=True)


def _architecture(
    family: str | None, widths: str | None, graph: Path | None, bias: bool
) -> "tuple[Architecture, FloatArray | None, str]":
    """Build what was asked for, with the θ that a graph file may hold, and say what it is."""
    if graph is not None:
        if family is not None or widths is not None or bias:
            raise InputError(
                "a graph file has its own nodes and biases; leave --family, --widths and --bias"
            )
        network, theta = _read_graph(graph)
        nodes, edges = len(network.dag.nodes), network.dag.n_edges
        return network, theta, f"{graph} with {nodes:,} nodes and {edges:,} edges"
    name = "relu" if family is None else family
    known = find(name)
    if bias and "bias" not in known.reads:
        raise InputError(f"the family {name} has no biases; leave --bias")
    sizes = known.read(widths, known.sizes)
    what = f"{name} {'-'.join(map(str, sizes))}{' with biases' if bias else ''}"
    return known.build(sizes, bias), None, what


def _read_graph(path: Path) -> "tuple[ReLUNetwork, FloatArray | None]":
    """Read a network, and its θ where the file has one, from what can be read in one way."""
    import networkx as nx

    try:
        if not path.is_file():  # of a device or a pipe there is no end
            raise OSError(f"there is {'a folder or device' if path.exists() else 'no such file'}")
        data = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_distinct)
        if not isinstance(data.get("graph", {}), dict) or ("edges" in data and "links" in data):
            raise ValueError("graph must hold attributes, and edges be under one name")
        nodes = [(_hashable(node["id"]), node) for node in data["nodes"]]
        edges = [
            (_hashable(edge["source"]), _hashable(edge["target"]), edge)
            for edge in data["edges" if "edges" in data else "links"]
        ]
        pairs: list[tuple[Any, ...]] = [(tail, head) for tail, head, _ in edges]
        parallel = data.get("multigraph") is True and bool(_doubles(pairs))
        graph = nx.MultiDiGraph() if parallel else nx.DiGraph()
        graph.add_nodes_from(nodes)
        declared = len(graph)
        if parallel:
            pairs = [(tail, head, _hashable(edge["key"])) for tail, head, edge in edges]
        graph.add_edges_from((*pair, edge) for pair, (*_, edge) in zip(pairs, edges, strict=True))
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{path} holds no graph ({type(error).__name__}: {error}); write one with "
            "json.dump(networkx.node_link_data(graph), file)"
        ) from error
    if data.get("directed") is not True:
        raise DataError(f"{path} holds an undirected graph; a network is a networkx.DiGraph")

    def refuse_if(names: Iterable[Any], what: str) -> None:
        if shown := listed(map(repr, names)):
            raise DataError(f"{path} has {what}: {shown}")

    misspelt = [(node, key) for node, values in nodes for key in values if _misspelt(key)]
    misspelt += [((u, v), key) for u, v, edge in edges for key in edge if _misspelt(key)]
    refuse_if(misspelt, "attributes that only differ by capitals from those that are read")
    refuse_if(_doubles(node for node, _ in nodes), "nodes that are declared twice")
    refuse_if(list(graph)[declared:], "edges that end at nodes it does not declare")
    refuse_if(_doubles(pairs), "parallel edges")
    refuse_if(nx.isolates(graph), "nodes without edges")
    data_of = dict(zip(pairs, (edge for *_, edge in edges), strict=True))
    pairs = [pair for pair in pairs if not data_of[pair].get("frozen")]
    weights = {pair: data_of[pair]["weight"] for pair in pairs if "weight" in data_of[pair]}
    biased = [node for node, values in nodes if "bias" in values]
    fixed = {node for node, values in nodes if values.get("bias_frozen")}
    biases = {node: graph.nodes[node]["bias"] for node in biased if node not in fixed}
    if weights:
        refuse_if((pair for pair in pairs if pair not in weights), "weights, but not at the edges")
        values = [*weights.items(), *biases.items()]
        refuse_if((at for at, value in values if not _is_number(value)), "no number at")
    else:  # a bias may be a mark, but none is to be lost
        marks = [node for node, bias in biases.items() if bias is None or bias is True]
        marks += [node for node, bias in biases.items() if _is_number(bias) and bias == 0]
        refuse_if((n for n in biases if n not in marks), "no weights, but a bias at")
    inputs = [node for node, degree in graph.in_degree() if degree == 0]
    outputs = [node for node, degree in graph.out_degree() if degree == 0]
    network = liftflow.ReLUNetwork(graph, inputs, outputs, biased)
    return network, network.read_weights() if weights else None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of JSON, in which a name given twice would lose a value."""
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError(f"an object has two values of {_doubles(name for name, _ in pairs)[0]!r}")
    return made


def _misspelt(key: str) -> bool:
    return key != key.lower() and key.lower() in _ATTRIBUTES


def _doubles(values: Iterable[Any]) -> list[Any]:
    return [value for value, count in Counter(values).items() if count > 1]


def _hashable(name: Any) -> Any:
    return tuple(map(_hashable, name)) if isinstance(name, list) else name


def _is_number(value: Any) -> bool:
    is_real = isinstance(value, int | float) and not isinstance(value, bool)
    return is_real and abs(value) <= sys.float_info.max
