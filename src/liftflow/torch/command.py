"""The laws of a module on the command line."""

import json
import runpy
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from liftflow.errors import DataError
from liftflow.torch.network import from_torch


def module_laws(where: str, seed: int = 0, as_json: bool = False) -> str:
    """Write out the laws of a module, layer by layer.

    Parameters
    ----------
    where : str
        ``FILE.py:FUNCTION``; the function returns a module and an example of its inputs.
    seed : int
        Of torch's generator, before the function is called.
    as_json : bool
        Whether to write JSON instead of a table.

    Raises
    ------
    DataError
        No such file or function, or it returns something else.
    """
    network, theta = from_torch(*_built(where, seed))
    size = network.channels.n_channels
    laws = network.conservation_laws(theta)
    members: Any = network.channels.members
    layers = [name for name, _ in members]
    table = pd.DataFrame({"layer": layers, "law": laws[:size]})
    rows = table.groupby("layer", sort=False).law.agg(["count", "min", "mean", "max"])
    rows = rows.rename(columns={"count": "channels"})
    if as_json:
        return json.dumps(
            {
                "dim": network.dim,
                "n_laws": network.n_laws,
                "linear": network.inert.count,
                "layers": json.loads(rows.reset_index().to_json(orient="records")),
            },
            indent=2,
        )
    title = f"{network.n_laws:,} conservation laws of {network.dim:,} parameters of {where}"
    linear = f"{network.inert.count:,} of them linear, of biases that add up or have no effect\n"
    lines = rows.to_string(float_format="{:.4g}".format)
    return f"{title}\n{linear if network.inert.count else ''}\n{lines}"


def _built(where: str, seed: int) -> tuple[Any, Any]:
    path, _, name = where.rpartition(":")
    if not path or not name.isidentifier() or not Path(path).is_file():
        raise DataError(f"expected FILE.py:FUNCTION with a file that is there, got {where}")
    try:
        torch.manual_seed(seed)
        built = runpy.run_path(path)[name]()
    except (Exception, SystemExit) as error:  # whatever the file of a user raises
        raise DataError(f"{where} fails: {type(error).__name__}: {error}") from error
    if not (isinstance(built, tuple) and len(built) == 2 and isinstance(built[0], torch.nn.Module)):
        raise DataError(f"{where} must return a module and an example of its inputs")
    return built
