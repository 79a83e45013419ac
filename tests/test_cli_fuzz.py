"""Any command line ends with exit code 0, 1 or 2 and, where it is refused, with a message."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from liftflow.cli import app

ODD = [
    "",
    " ",
    "x",
    "-1",
    "0",
    "nan",
    "inf",
    "1e400",
    "θ",
    "\ud800",
    "a" * 300,
    "9" * 30,
    "1,2",
    "--",
]
WIDTHS = [
    "4-3-3",
    "2-2-2",
    "3-2",
    "2-2-2-2",
    "8-2-1",
    "2-5",
    "1-1-1",
    "0-0-0",
    "4--3",
    "2-2-1000000",
    "5",
]
NUMBERS = ["0", "1", "1e-3", "-0.5", "0.5,-0.2", "1e-300", "1e300"]
TABLES = {
    "good.csv": "a,b,y\n1,2,0.5\n3,1,1.5\n2,2,0.1\n",
    "labels.csv": "a,b,y\n1,2,u\n3,1,v\n2,2,u\n",
    "rows.csv": "1,2,0.5\n3,1,1.5\n2,2,0.1\n",
    "index.csv": ",a,y\n0,2,1\n1,1,0\n2,3,1\n",
    "quotes.csv": 'a,b,y\n1,2,"u\n3,1,"v\n',
    "gaps.csv": "a,b,y\n1,,0.5\n3,1\n",
    "long.csv": "x,y,t\n1,2," + "a" * 200_000 + "\n4,,b\n7,8,b\n",
    "empty.csv": "",
    "bytes.csv": "\x00\x01",
    "twice.csv": "a,a,a\n1,2,3\n1,3,4\n",
}
NODES = [{"id": name} for name in "xaby"]
EDGES = [{"source": u, "target": v, "weight": 0.5} for u, v in ("xa", "xb", "ay", "by")]
GRAPH = {"directed": True, "nodes": NODES, "edges": EDGES}
GRAPHS = {
    "good.json": GRAPH,
    "links.json": {"directed": True, "nodes": NODES, "links": EDGES},
    "undirected.json": {"nodes": NODES, "edges": EDGES},
    "no nodes.json": {"directed": True, "edges": EDGES},
    "no names.json": {**GRAPH, "nodes": [{}, {"id": "x"}]},
    "null.json": {**GRAPH, "nodes": [{"id": None}]},
    "loop.json": {**GRAPH, "edges": [*EDGES, {"source": "a", "target": "a", "weight": 1}]},
    "cycle.json": {**GRAPH, "edges": [*EDGES, {"source": "y", "target": "x", "weight": 1}]},
    "text.json": {**GRAPH, "edges": [*EDGES[:3], {"source": "b", "target": "y", "weight": "1"}]},
    "NaN.json": {
        **GRAPH,
        "edges": [*EDGES[:3], {"source": "b", "target": "y", "weight": float("nan")}],
    },
    "dicts.json": {**GRAPH, "nodes": [{"id": {}}]},
    "list.json": {**GRAPH, "graph": [1, 2]},
    "numbers.json": [1, 2],
    "strings.json": {**GRAPH, "edges": "xy"},
    "none.json": None,
}
SHARED = {
    "--family": ["relu", "two-layer", "deep", "ode", "attention", "cnn"],
    "--widths": WIDTHS,
    "--lam": NUMBERS,
    "--seed": ["0", "3", "-1"],
    "--bias": [None],
}
DECIDING = {
    **SHARED,
    "--widths": ["2-2-1", "1-1-1", "2-1-2", "1-2", "1-1-1-1", "0-0-0", "4--3", "5"],
    "--graph": [*GRAPHS, "nowhere.json", ".", "/dev/null"],
    "--exact": [None],
    "--json": [None],
}
OPTIONS = {
    "classify": DECIDING,
    "laws": {**DECIDING, "--degree": ["0", "1", "2", "-1"]},
    "compare": {
        **SHARED,
        "--family": ["relu", "two-layer", "deep", "ode", "cnn"],  # attention takes seconds
        "--data": ["iris", "diabetes", *TABLES, "nowhere.csv", ".", "/dev/null"],
        "--task": ["regression", "sensing", "completion", "sleep"],
        "--loss": ["mse", "cross-entropy", "hinge"],
        "--rtol": ["1e-2", "1e-3", *NUMBERS],
        "--atol": NUMBERS,
        "--method": ["RK45", "LSODA", "Euler"],
        "--coordinates": ["auto", "full", "basis", "polar"],
        "--t-end": ["0.01", "-1", "0"],
        "--target": ["a", "y", "1", "9"],
        "--header": [None],
        "--no-header": [None],
        "--index-column": ["1", "a", "z"],
        "--no-index-column": [None],
        "--labels": [None],
        "--numbers": [None],
        "--control": [None],
        "--out": ["out", "good.csv", "/dev/null/x"],
        "--checkpoints": ["kept", "good.csv"],
    },
    "gallery": {"--jobs": ["1", "0", "9" * 21], "--out": ["out"], "--dark": [None]},
    "version": {},
}
BASE = {"compare": ["--no-progress", "--t-end", "0.01", "--rtol", "1e-2"], "gallery": ["99_none"]}
N_LINES = 304


def command_line(rng):
    """Draw a command with up to five of its options, every tenth with an odd value."""
    command = str(rng.choice([*OPTIONS], p=[0.3, 0.2, 0.4, 0.05, 0.05]))
    words = [command, *BASE.get(command, [])]
    names = [*OPTIONS[command]]
    for name in rng.permutation(names)[: rng.integers(0, 6)]:
        odd = rng.random() < 0.1
        value = ODD[rng.integers(len(ODD))] if odd else rng.choice(OPTIONS[command][name])
        words += [str(name)] if value is None else [str(name), str(value)]
    if command in ("classify", "laws") and not {"--graph", "--widths"} & {*words}:
        words += ["--widths", "1-2-1"]  # the default takes seconds
    if command == "compare" and not {"--family", "--widths", "--data"} & {*words}:
        words += ["--widths", "4-2-3"]
    return words + ([ODD[rng.integers(len(ODD))]] if rng.random() < 0.03 else [])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    for name, text in TABLES.items():
        (folder / name).write_text(text)
    for name, data in GRAPHS.items():
        (folder / name).write_text(json.dumps(data))
    (folder / "deep.json").write_text("[" * 100_000 + "]" * 100_000)
    return folder


@pytest.mark.parametrize(
    "part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in range(1, 4))]
)
@pytest.mark.slow
def test_no_command_line_ends_in_a_traceback(folder, monkeypatch, part):
    monkeypatch.chdir(folder)
    rng = np.random.default_rng([20_261_125, part])
    ends = set()
    for _ in range(N_LINES // 4):
        words = command_line(rng)
        result = CliRunner().invoke(app, words)
        ends.add(result.exit_code)
        known = result.exception is None or isinstance(result.exception, SystemExit)
        assert known and result.exit_code in (0, 1, 2), (words, repr(result.exception))
        assert result.exit_code != 2 or result.stderr.strip(), words
    assert ends >= {0, 2}
