"""A rollout in the terminal while it happens: the replay of one of its rows, step by step."""

from __future__ import annotations

import threading
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING

from fastad.acting.interact import Transition
from fastad.base.errors import UserError
from fastad.reports.frames import Frame, draw

if TYPE_CHECKING:
    from rich.console import Console

    from fastad.evaluate.task_set import TaskSet


class Watch:
    """Plays the first rollout of a task set at a speed of its own, in a thread of its own.

    The rollout goes on meanwhile, at its speed, and its figures are what they are without.
    As a context manager it ends when all is played; an exception, such as that of Ctrl-C, ends it
    at once, and leaves the terminal as it was.

    Args:
        tasks: On which the model acts.
        num_episodes: Of each rollout.
        speed: Steps a second.
        console: A terminal.

    Raises:
        UserError: If the console is no terminal.
    """

    def __init__(
        self, tasks: TaskSet, num_episodes: int, *, speed: float, console: Console
    ) -> None:
        if not console.is_terminal or console.is_dumb_terminal:
            raise UserError(
                "watch=True draws in a terminal, and standard output is none; leave --watch out, "
                "or do not redirect the output"
            )
        env = tasks.make_env(tasks.generator("cpu"))
        optimal = env.optimal_return()
        self.frame = Frame(
            env.family, env.tasks[0], env.actions, num_episodes=num_episodes,
            optimal=None if optimal is None else float(optimal[0]), env=tasks.info.env,
        )  # fmt: skip
        self.num_episodes, self.speed, self.console = num_episodes, speed, console
        self._moments: deque[Transition] = deque()
        self._news = threading.Condition()
        self._is_over, self._stopped = False, threading.Event()
        self._thread = threading.Thread(target=self._play, name="watch", daemon=True)
        self._error: Exception | None = None

    def __enter__(self) -> Watch:
        """Begin to play; what is not there yet is waited for."""
        self._thread.start()
        return self

    def __call__(self, block: Transition) -> None:
        """Take note of a block of all rollouts, (N, steps, ...)."""
        row = Transition(*(field[0].cpu().clone() for field in block))
        moments = [Transition(*(field[step] for field in row)) for step in range(len(row.reward))]
        with self._news:
            self._moments += moments
            self._news.notify()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait until all is played, or stop."""
        with self._news:
            self._is_over = True
            self._news.notify()
        try:
            if kind is not None:
                self._stop()
            self._thread.join()
        except BaseException:
            self._stop()
            self._thread.join()
            raise
        if self._error is not None and kind is None:
            raise self._error

    def _stop(self) -> None:
        with self._news:
            self._stopped.set()
            self._news.notify()

    def _play(self) -> None:
        """What the thread does."""
        try:
            self._draw_all()
        except Exception as error:  # a thread has nobody to tell: raised where it is waited for
            self._error = error

    def _draw_all(self) -> None:
        from rich.live import Live

        with Live(console=self.console, auto_refresh=False, vertical_overflow="crop") as live:
            while (moment := self._next()) is not None:
                self.frame.take(moment)
                live.update(draw(self.frame, self.console), refresh=True)
                self._stopped.wait(1 / self.speed)

    def _next(self) -> Transition | None:
        """The next step to draw; None where there are no more."""
        with self._news:
            while not (self._moments or self._is_over or self._stopped.is_set()):
                self._news.wait()
            if self._stopped.is_set() or not self._moments:
                return None
            if len(self.frame.returns) == self.num_episodes:
                return None  # whoever ends episodes early lives more of them than are wanted
            return self._moments.popleft()
