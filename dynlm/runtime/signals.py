"""Graceful stops on Ctrl-C (SIGINT) and on SIGTERM, which launchers and schedulers send."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


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
    """Whether this process was signalled to stop; ``number`` is the last signal's number, 0 before.

    The signal after ``deferred`` ones stops at once: a launcher may repeat a Ctrl-C that its processes got already.
    """

    def __init__(self, deferred: int = 2) -> None:
        self.number, self._deferred = 0, deferred

    @property
    def requested(self) -> bool:
        return bool(self.number)

    def stop(self, saved: object = None) -> None:
        """Raise Stopped; also for a process that stops because another one was signalled."""
        raise Stopped(self.number or signal.SIGTERM, saved)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: record it, or raise Stopped if it is one too many."""
        self.number, self._deferred = number, self._deferred - 1
        if self._deferred < 0:
            self.stop()


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Record SIGINT and SIGTERM within the block, which polls the request where it can save a checkpoint.

    Raises Stopped after a block that leaves a request pending, and at once on the third signal.
    """
    request = StopRequest()
    with _handler(request, signal.SIGINT, signal.SIGTERM):
        yield request
    if request.requested:
        request.stop()


@contextlib.contextmanager
def raise_on_sigterm() -> Iterator[None]:
    """Raise Stopped on SIGTERM within the block, as Ctrl-C raises KeyboardInterrupt, so that cleanup code runs."""
    with _handler(StopRequest(deferred=0), signal.SIGTERM):
        yield


@contextlib.contextmanager
def _handler(request: StopRequest, *numbers: int) -> Iterator[None]:
    """Let ``request`` handle signals within the block. Only the main thread can: others leave signals alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, request.handle) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            # None stands for a handler that was not installed from Python.
            signal.signal(number, signal.SIG_DFL if previous is None else previous)
