"""Graceful stops on Ctrl-C (SIGINT) and on SIGTERM, which launchers and schedulers send."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

_DEFERRED_SIGNALS = 2
"""A launcher may repeat a Ctrl-C that its processes got already; a third signal stops at once, without a checkpoint."""


class Stopped(KeyboardInterrupt):
    """Raised on a stop by signal ``number``; ``saved`` is the checkpoint from which the same command resumes."""

    def __init__(self, number: int = signal.SIGINT, saved: object = None):
        super().__init__()
        self.number, self.saved = number, saved

    @property
    def exit_code(self) -> int:
        """128 plus the signal's number, as in shells: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.number


class StopRequest:
    """Whether this process was signalled to stop; ``number`` is the last signal's number, 0 before."""

    def __init__(self) -> None:
        self.number, self._count = 0, 0

    @property
    def requested(self) -> bool:
        return bool(self.number)

    def stop(self, saved: object = None) -> None:
        """Raise Stopped; also for a process that stops because another one was signalled."""
        raise Stopped(self.number or signal.SIGTERM, saved)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: record it, or raise Stopped if it comes for the third time."""
        self.number, self._count = number, self._count + 1
        if self._count > _DEFERRED_SIGNALS:
            self.stop()


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Record SIGINT and SIGTERM within the block, which polls the request where it can save a checkpoint.

    Raises Stopped at the end of the block if a request is pending, and at once on the third signal.
    """
    request = StopRequest()
    with _handlers(request.handle, signal.SIGINT, signal.SIGTERM):
        yield request
    if request.requested:
        request.stop()


@contextlib.contextmanager
def raise_on_sigterm() -> Iterator[None]:
    """Raise Stopped on SIGTERM within the block, as Ctrl-C raises KeyboardInterrupt, so that cleanup code runs."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    with _handlers(stop, signal.SIGTERM):
        yield


@contextlib.contextmanager
def _handlers(handler: Callable[[int, FrameType | None], Any], *numbers: int) -> Iterator[None]:
    """Install a signal handler within the block. Only the main thread can: others leave signals alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            # None stands for a handler that was not installed from Python.
            signal.signal(number, signal.SIG_DFL if previous is None else previous)
