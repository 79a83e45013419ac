"""Jobs in processes of their own that take turns: one that waits for a line, and its other end."""

import contextlib
import io
import json
import os
import select
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

ONE_THREAD = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}
"""Environment in which whatever library has one thread; it is kept to one core, too."""


@cache
def earlier(commit: str) -> Path | None:
    """Unpack an earlier commit, or return None where git does not have it."""
    command = ["git", "-C", str(Path(__file__).parent.parent), "archive", commit]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        return None
    folder = Path(tempfile.mkdtemp(prefix="liftflow-before-"))
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="tar")
    return folder


def serve(jobs: Mapping[str, Callable[..., Any]], arguments: Sequence[str]) -> None:
    """Make a job, try it once, then do it for each line that comes, and write what it took.

    A job is made of keywords, and is two functions: what is timed, and what tells of its result.
    The first takes what a line says besides "first" and "again".
    """
    name, keywords = arguments
    if os.environ.get("XLA_FLAGS") == ONE_THREAD["XLA_FLAGS"]:
        with contextlib.suppress(AttributeError):  # of Linux only
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    out, sys.stdout = sys.stdout, sys.stderr
    run, tell = jobs[name](**json.loads(keywords))
    for line in sys.stdin:
        what = [] if line.strip() in ("first", "again") else [line.strip()]
        start, cpu = time.perf_counter(), time.process_time()
        found = run(*what)
        spent = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}
        if line.strip() == "first":  # the first time is to compile and to import
            spent = {}
        print(json.dumps({**spent, **tell(found)}), file=out, flush=True)


class Worker:
    """A job that a script does in another process.

    Parameters
    ----------
    cap : float
        Seconds after which it is given up.
    """

    def __init__(
        self,
        python: str,
        script: Path,
        job: str,
        environment: Mapping[str, str],
        cap: float = 120.0,
        **keywords: object,
    ) -> None:
        command = [python, str(script), job, json.dumps(keywords)]
        self.cap, self.best, self.problem = cap, dict[str, Any](), ""
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **environment},
        )

    def __enter__(self) -> "Worker":
        """Try it once, untimed."""
        self.best = self._ask("first")
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def once(self, what: str = "again") -> None:
        """Do it once, or ``what`` of it, and keep the least seconds."""
        if not self.problem:
            told = self._ask(what)
            for name in ("seconds", "cpu"):
                if name in told:
                    told[name] = min(told[name], self.best.get(name, told[name]))
            self.best = {**self.best, **told}

    def _ask(self, how: str) -> dict[str, Any]:
        pipes = self._process.stdin, self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            pipes[0].write(how.encode() + b"\n")
            pipes[0].flush()
        if not select.select([pipes[1]], [], [], self.cap)[0]:
            self.problem = f"cut after {self.cap:g} s"
            return {}
        line = pipes[1].readline()
        if not line:
            self._process.kill()
            told = self._process.communicate()[1].decode().strip().splitlines()
            self.problem = f"failed: {(told or ['no word'])[-1][:100]}"
            return {}
        return json.loads(line)


def in_turn(workers: Sequence[Worker], repeats: int) -> None:
    """Let each do its job once, over and over: what else runs weighs on all alike."""
    for _ in range(repeats):
        for worker in workers:
            worker.once()
