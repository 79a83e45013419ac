"""Modules that moved, still to be imported under their names of before."""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "liftflow.architectures.kernel": "liftflow.architectures.path_kernel",
    "liftflow.architectures.matrix_product": "liftflow.architectures.balance",
    "liftflow.cli_criteria": "liftflow.cli.classify",
    "liftflow.flows.drift": "liftflow.flows.rules",
    "liftflow.gallery_cli": "liftflow.cli.gallery",
    "liftflow.manifolds.flat": "liftflow.manifolds.flattened",
    "liftflow.manifolds.parameters": "liftflow.manifolds.base",
    "liftflow.matrix_losses": "liftflow.losses.matrix",
    "liftflow.metrics.base": "liftflow.metrics",
    "liftflow.metrics.horizontal": "liftflow.metrics",
    "liftflow.metrics.linear": "liftflow.metrics.intrinsic",
    "liftflow.problems": "liftflow.cli.families",
}
"""What each is called now. It is the same module under both names."""


class _Moved(MetaPathFinder, Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(MOVED[spec.name])
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:  # its own again, which the import system replaced
            module.__spec__ = module.__spec__.loader_state


def install() -> None:
    """Let the import system find them."""
    sys.meta_path.append(_Moved())
