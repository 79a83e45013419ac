"""Signs of life of what takes a while: progress bars that show themselves once it does."""

import math
import sys
import time
from collections.abc import Iterator, Sequence
from threading import Lock, Timer
from typing import TYPE_CHECKING, Any, Self, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")

PATIENCE = 3.0
"""Seconds after which a progress bar shows itself in a terminal."""


class Waiting:
    """A progress bar over a loop, on the standard error.

    Parameters
    ----------
    label : str
        What is waited for.
    total : float, optional
        What the progress counts up to, if that is known.
    detail : str
        Of rich's text, with ``{task.fields[name]}`` for each of the fields.
    show : bool or None
        At once, or never; by default in a terminal, once it has taken :data:`PATIENCE` seconds.
    **fields
        Their first values.
    """

    def __init__(
        self,
        label: str,
        total: float | None = None,
        detail: str = "",
        show: bool | None = None,
        **fields: Any,
    ) -> None:
        self.label, self.total, self.detail, self.fields = label, total, detail, fields
        self._bar: Progress | None = None
        due = {True: 0.0, False: math.inf, None: PATIENCE}[show]
        self._always, self._due = bool(show), time.monotonic() + due
        self._lock, self._timer = Lock(), None if show is not None else Timer(due, self._start)

    def __enter__(self) -> Self:
        """Begin to wait: what says nothing for long shows itself, too."""
        if self._timer is not None and sys.stderr is not None and sys.stderr.isatty():
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bar away."""
        if self._timer is not None:
            self._timer.cancel()
        with self._lock:
            self._due = math.inf
            if self._bar is not None:
                self._bar.stop()

    @property
    def shown(self) -> bool:
        """Whether somebody may be looking, from now on."""
        if self._bar is None and time.monotonic() >= self._due:
            self._start()
        return self._bar is not None

    def update(self, completed: float, **fields: Any) -> None:
        """Note how far it is, which costs next to nothing while nothing is shown."""
        if self.shown and self._bar is not None:
            self._bar.update(self._task, completed=completed, **fields)

    def _start(self) -> None:
        with self._lock:
            if self._bar is None and self._due < math.inf:
                self._show()

    def _show(self) -> None:
        try:
            from rich import console, progress  # here, since most never wait
        except RuntimeError as error:
            # Ctrl-C is that before Python 3.12, where it comes while a class is made.
            if isinstance(error.__cause__, KeyboardInterrupt):
                raise error.__cause__ from None
            raise
        screen = console.Console(stderr=True)
        if not (self._always or screen.is_terminal):
            self._due = math.inf
            return
        texts = [progress.TextColumn(text) for text in ("{task.description:>10}", self.detail)]
        columns = [texts[0], progress.BarColumn(), texts[1]]
        columns += [progress.TimeElapsedColumn(), progress.TimeRemainingColumn()]
        self._bar = progress.Progress(*columns, console=screen, transient=True)
        self._task = self._bar.add_task(self.label, total=self.total, **self.fields)
        self._bar.start()


def tracked(steps: Sequence[T], label: str, show: bool | None = None) -> Iterator[T]:
    """Loop over steps with a progress bar, shown as :class:`Waiting` shows it."""
    with Waiting(label, len(steps), show=show) as bar:
        for number, step in enumerate(steps):
            bar.update(number)
            yield step
