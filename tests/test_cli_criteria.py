"""The commands classify and laws."""

import json

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
