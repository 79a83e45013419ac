"""The commands classify and laws."""

import json
import os

import networkx as nx
import pytest
from typer.testing import CliRunner

from liftflow.cli import app


def run(*words):
    return CliRunner().invoke(app, list(words))


@pytest.mark.parametrize(
    ("words", "metric", "n_laws"),
    [
        (["--family", "relu", "--widths", "2-3-2", "--bias"], "holds", 3),
        (["--family", "two-layer", "--widths", "3-2-3", "--lam", "0.5"], "holds", 3),
        (["--family", "two-layer", "--widths", "2-2-2"], "fails", 3),
        (["--family", "deep", "--widths", "2-2-2-2", "--lam", "0.5,-0.2", "--exact"], "holds", 6),
        (["--family", "ode", "--widths", "2-2", "--lam", "0.5"], "holds", 3),
        (["--family", "attention", "--widths", "2-1-1"], "holds", 2),
    ],
    ids=lambda value: value[1] if isinstance(value, list) else "",
)
def test_classify_a_family(words, metric, n_laws):
    result = run("classify", *words, "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["metric"]["verdict"] == metric
    assert record["n_laws"]["value"] == n_laws
    if "--exact" in words:
        assert record["n_laws"]["witness"]["error_bound"] < 1e-10


def test_classify_prints_a_table():
    result = run("classify", "--widths", "2-2-1")
    assert result.exit_code == 0
    for word in ("recoverable", "metric", "dynamic", "frobenius", "holds", "margin"):
        assert word in result.stdout


def graph_file(folder, weights=True, **roles):
    graph = nx.DiGraph([("x", "a"), ("a", "b"), ("b", "y"), ("x", "y")])
    graph.nodes["b"]["bias"] = 0.0
    if weights:
        nx.set_edge_attributes(graph, 1.0, "weight")
        graph.edges["x", "a"]["weight"] = graph.edges["a", "b"]["weight"] = 0.0
    path = folder / "graph.json"
    path.write_text(json.dumps(nx.node_link_data(graph, edges=roles.get("edges", "edges"))))
    return str(path)


@pytest.mark.parametrize("edges", ["edges", "links"])
def test_classify_a_graph_with_its_weights(tmp_path, edges):
    result = run("classify", "--graph", graph_file(tmp_path, edges=edges), "--json")
    record = json.loads(result.stdout)["recoverable"]
    assert record["verdict"] == "fails"
    assert record["witness"]["parameters"] == [["x", "a"], ["a", "b"]]


def test_classify_a_graph_without_weights(tmp_path):
    result = run("classify", "--graph", graph_file(tmp_path, weights=False), "--json")
    assert json.loads(result.stdout)["recoverable"]["verdict"] == "holds"


def test_laws_of_a_graph(tmp_path):
    result = run("laws", "--graph", graph_file(tmp_path))
    assert result.exit_code == 0
    assert "2 independent conservation laws (holds)" in result.stdout
    assert "θ[a→b]² − θ[b→y]² + θ[⟨1⟩→b]²" in result.stdout


def test_laws_of_a_family():
    result = run("laws", "--family", "two-layer", "--widths", "1-2-1", "--exact", "--json")
    record = json.loads(result.stdout)
    assert record["count"]["value"] == 3
    assert "U[0,0] V[0,1] − U[0,1] V[0,0]" in record["polynomials"]["laws"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["classify", "--family", "cnn"], "family must be one of relu, two-layer"),
        (["classify", "--widths", "4-x"], "widths must be numbers joined by '-', got '4-x'"),
        (
            ["classify", "--family", "two-layer", "--widths", "4-3"],
            "must be input-hidden-output, like 3-2-3",
        ),
        (["classify", "--lam", "1"], "a ReLU network has no λ; leave --lam"),
        (["classify", "--family", "deep", "--bias"], "the family deep has no biases"),
        (["classify", "--family", "deep", "--lam", "a"], "λ must be numbers joined by ','"),
        (["laws", "--graph", "nowhere.json"], "nowhere.json holds no graph"),
        (["laws", "--graph", "x", "--bias"], "a graph file has its own nodes and biases"),
        (["laws", "--family", "deep", "--widths", "9-9-9-9"], "more than 2500; take a smaller"),
    ],
)
def test_refusals(words, message):
    result = run(*words)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "holds no graph (JSONDecodeError"),
        ("[1]", "holds no graph"),
        ('{"directed": false, "nodes": [{"id": 1}], "edges": []}', "holds an undirected graph"),
    ],
)
def test_files_that_hold_no_network(tmp_path, content, message):
    path = tmp_path / "graph.json"
    path.write_text(content)
    result = run("classify", "--graph", str(path))
    assert result.exit_code == 2
    assert message in result.stderr


# Graph files that could be read in two ways, or whose θ would be lost, are refused.

NODES = [{"id": name} for name in "xaby"]
ENDS = ("xa", "xb", "ay", "by")
EDGES = [{"source": u, "target": v} for u, v in ENDS]
WEIGHTED = [{**e, "weight": w} for e, w in zip(EDGES, (0.0, 0.5, 0.0, 1.5), strict=True)]


def on_graph(folder, command="laws", **changes):
    path = folder / "graph.json"
    data = {"directed": True, "nodes": NODES, "edges": EDGES, **changes}
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))
    return run(command, "--graph", str(path), *(["--json"] if command == "classify" else []))


def edge(tail, head, **values):
    return {"source": tail, "target": head, **values}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"edges": [*EDGES, edge("a", "Y")]}, "end at nodes it does not declare: 'Y'"),
        ({"nodes": [{"id": 0}, {"id": 1}], "edges": [edge("0", "1")]}, "not declare: '0', '1'"),
        ({"nodes": [*NODES, {"id": "a"}]}, "nodes that are declared twice: 'a'"),
        ({"nodes": [{"id": 1}, {"id": True}], "edges": [edge(1, True)]}, "declared twice: 1"),
        ({"nodes": [*NODES, {"id": "q"}]}, "nodes without edges: 'q'"),
        ({"nodes": [*NODES[1:], {}]}, "KeyError: 'id'"),
        ({"edges": [*EDGES, EDGES[0]]}, "parallel edges: ('x', 'a')"),
        ({"edges": [*EDGES, edge("x", "a")], "multigraph": True}, "KeyError: 'key'"),
        ({"links": EDGES}, "edges be under one name"),
        ({"graph": [1, 2]}, "graph must hold attributes"),
        ({"directed": "false"}, "an undirected graph"),
        ({"directed": None}, "an undirected graph"),
        ({"edges": [*WEIGHTED[:3], EDGES[3]]}, "weights, but not at the edges: ('b', 'y')"),
        ({"edges": [*WEIGHTED[:3], edge("b", "y", weight="1")]}, "no number at: ('b', 'y')"),
        ({"edges": [*WEIGHTED[:3], edge("b", "y", weight=None)]}, "no number at: ('b', 'y')"),
        ({"edges": [*WEIGHTED[:3], edge("b", "y", weight=True)]}, "no number at: ('b', 'y')"),
        ({"edges": [*WEIGHTED[:3], edge("b", "y", weight=float("nan"))]}, "at: ('b', 'y')"),
        ({"edges": [*WEIGHTED[:3], edge("b", "y", weight=10**400)]}, "at: ('b', 'y')"),
        (
            {"nodes": [*NODES[:2], {"id": "b", "bias": True}, NODES[3]], "edges": WEIGHTED},
            "no number at: 'b'",
        ),
        (
            {"nodes": [*NODES[:2], {"id": "b", "bias": 1.0}, NODES[3]]},
            "no weights, but a bias at: 'b'",
        ),
        (
            {"nodes": [{"id": "x", "bias": 0.0}, *NODES[1:]]},
            "an input has no bias, got one at: 'x'",
        ),
        (
            {"edges": [*EDGES[:3], edge("b", "y", Weight=0.0)]},
            "capitals from those that are read: (('b', 'y'), 'Weight')",
        ),
        (
            {"nodes": [*NODES[:2], {"id": "b", "activation": "tanh"}, NODES[3]]},
            "an activation is one of relu, abs, identity, max, relu_power, leaky_relu, got 'tanh'",
        ),
        ({"edges": [*EDGES, edge("a", "a")]}, "self-loops at: 'a'"),
        ({"edges": [*EDGES, edge("a", "b"), edge("b", "a")]}, "a cycle through"),
    ],
)
def test_graphs_that_are_misread_otherwise(tmp_path, changes, message):
    result = on_graph(tmp_path, **changes)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not result.stdout


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"multigraph": False, "graph": {}},
        {"multigraph": True},
        {"edges": None, "links": EDGES},
        {"nodes": [{"id": [0, n["id"]]} for n in NODES]}
        | {"edges": [edge([0, e["source"]], [0, e["target"]]) for e in EDGES]},
    ],
    ids=["plain", "all keys", "no parallel edges", "links", "tuples"],
)
def test_graphs_that_can_be_read_in_one_way(tmp_path, changes):
    result = on_graph(tmp_path, **changes)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("2 independent conservation laws (holds) of ")
    assert "graph.json with 4 nodes and 4 edges" in result.stdout


@pytest.mark.parametrize(
    ("changes", "n_laws"),
    [
        ({"edges": [edge(*ends, key=k) for k in (0, 1) for ends in ENDS], "multigraph": True}, 2),
        ({"edges": [edge(*ends, parameter="".join(ends)[-1:]) for ends in ENDS]}, 1),
        ({"edges": [*EDGES[:2], *(edge(*e, frozen=True, weight=2.0) for e in ENDS[2:])]}, 0),
        (
            {
                "nodes": [
                    {**node, "activation": "abs"} if node["id"] == "a" else node for node in NODES
                ]
            },
            2,
        ),
    ],
    ids=["parallel", "shared", "frozen", "activation"],
)
def test_graphs_with_attributes(tmp_path, changes, n_laws):
    result = on_graph(tmp_path, **changes)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{n_laws} independent conservation laws (holds) of ")


def test_theta_of_a_graph_and_a_random_one_are_told_apart(tmp_path):
    """Neuron a is dead by its weights."""
    given = json.loads(on_graph(tmp_path, "classify", edges=WEIGHTED).stdout)
    drawn = json.loads(on_graph(tmp_path, "classify").stdout)
    assert given["data"].endswith("4 nodes and 4 edges, θ of the file")
    assert drawn["data"].endswith("4 nodes and 4 edges, random θ of seed 0")
    verdicts = [record["recoverable"]["verdict"] for record in (given, drawn)]
    assert verdicts == ["fails", "holds"]


def test_other_files_are_no_graphs(tmp_path):
    (tmp_path / "deep.json").write_text("[" * 100_000 + "]" * 100_000)
    (tmp_path / "twice.json").write_text('{"directed": true, "nodes": [], "nodes": []}')
    os.mkfifo(tmp_path / "pipe.json")
    kinds = {"pipe.json": "a folder or device", "": "a folder or device", "none": "no such file"}
    for name in ("deep.json", "twice.json", "a" * 300, *kinds):
        result = run("laws", "--graph", str(tmp_path / name))
        assert result.exit_code == 2
        assert "holds no graph" in result.stderr and kinds.get(name, "") in result.stderr


def test_options_that_a_graph_does_not_read(tmp_path):
    for words in (["--family", "relu"], ["--widths", "2-2"], ["--lam", "1"]):
        graph = graph_file(tmp_path)
        result = run("classify", "--graph", graph, *words)
        assert result.exit_code == 2
        assert words[0] in result.stderr


@pytest.mark.parametrize(
    "words", [["--widths", ""], ["--widths="], ["--lam", " "], ["--graph", ""]]
)
def test_options_without_a_value_are_no_defaults(words):
    result = run("classify", "--family", "deep", *words)
    assert result.exit_code == 2
    assert "nothing is given after" in result.stderr and words[0] in result.stderr
