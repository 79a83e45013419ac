"""As many threads of BLAS as the sizes deserve."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

# Not within a flow: before Python 3.12, Ctrl-C while a class is made becomes a RuntimeError.
from threadpoolctl import ThreadpoolController

DESERVES_ANOTHER = 1_000_000
"""Parameters for each thread. Below that, matrices are so small that threads gain little where
cores are free, and wait for one another for long where they are busy."""


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()  # which takes some milliseconds to find them


@contextmanager
def blas_threads(n_parameters: int) -> Iterator[None]:
    """Let BLAS have one thread for each million of parameters, and as many as before at most."""
    most = min(1 + n_parameters // DESERVES_ANOTHER, os.cpu_count() or 1)
    blas = _libraries().select(user_api="blas")
    own = [library["num_threads"] for library in blas.info()]
    if not own or max(own) <= most:  # whoever asked for less has it
        yield
        return
    with blas.limit(limits=most):
        yield
