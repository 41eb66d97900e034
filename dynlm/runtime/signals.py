"""Being asked to stop: by Ctrl-C (SIGINT), or by SIGTERM, as launchers and schedulers ask."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

# A launcher may pass on a Ctrl-C that its processes have had already; who asks a third time wants no checkpoint.
_PATIENT_TIMES = 2


class Stopped(KeyboardInterrupt):
    """What was under way was stopped, by ``number``, a signal's; ``saved`` names what the same command goes on from."""

    def __init__(self, number: int = signal.SIGINT, saved: object = None):
        super().__init__()
        self.number, self.saved = number, saved

    @property
    def exit_code(self) -> int:
        """128 and the signal's number, as shells have it: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.number


class StopRequest:
    """Whether this process was asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.number, self.times = 0, 0

    @property
    def asked(self) -> bool:
        return bool(self.number)

    def stop(self, saved: object = None) -> None:
        """Raise Stopped. One process may stop because another was asked."""
        raise Stopped(self.number or signal.SIGTERM, saved)

    def _take(self, number: int, frame: FrameType | None) -> None:
        self.number, self.times = number, self.times + 1
        if self.times > _PATIENT_TIMES:
            self.stop()


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Within the block Ctrl-C and SIGTERM are only noted, for the block to look at where it can save what it has.

    Raises Stopped at the block's end where a request was not seen to; at once where it is repeated and repeated.
    """
    request = StopRequest()
    with _handled_by(request._take, signal.SIGINT, signal.SIGTERM):
        yield request
    if request.asked:
        request.stop()


@contextlib.contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """Within the block SIGTERM raises Stopped as Ctrl-C raises KeyboardInterrupt: what is written aside is removed."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    with _handled_by(stop, signal.SIGTERM):
        yield


@contextlib.contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], Any], *numbers: int) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # who runs this in a thread keeps the signals
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            # None: of a handler that was not set from Python, nothing is known.
            signal.signal(number, signal.SIG_DFL if earlier is None else earlier)
