"""Stop requests are recorded until they can be handled, and handlers are restored."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from dynlm.runtime.signals import Stopped, raise_on_sigterm, stop_requests

BOTH = [signal.SIGINT, signal.SIGTERM]


@pytest.mark.parametrize("number", BOTH)
def test_a_request_is_recorded_and_handlers_are_restored(number: signal.Signals) -> None:
    before = [signal.getsignal(each) for each in BOTH]
    with pytest.raises(Stopped) as stopped, stop_requests() as request:
        assert not request.requested
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)  # As launchers repeat it.
        assert request.requested
        request.stop("a file")
    assert (stopped.value.exit_code, stopped.value.saved) == (128 + number, "a file")
    assert [signal.getsignal(each) for each in BOTH] == before


def test_a_pending_request_stops_at_the_end_of_the_block() -> None:
    reached = False
    with pytest.raises(Stopped), stop_requests():
        os.kill(os.getpid(), signal.SIGTERM)
        reached = True
    assert reached
    with stop_requests() as request:
        pass
    assert not request.requested


def test_the_third_signal_stops_at_once() -> None:
    times = 0
    with pytest.raises(Stopped), stop_requests():
        for times in range(1, 9):  # noqa: B007 - ends earlier.
            os.kill(os.getpid(), signal.SIGINT)
    assert times == 3


def test_a_request_does_not_hide_an_error() -> None:
    with pytest.raises(ZeroDivisionError), stop_requests():
        os.kill(os.getpid(), signal.SIGTERM)
        print(1 / 0)


def test_sigterm_raises_outside_of_stop_requests() -> None:
    before = signal.getsignal(signal.SIGTERM)
    reached = False
    with pytest.raises(KeyboardInterrupt) as stopped, raise_on_sigterm():
        os.kill(os.getpid(), signal.SIGTERM)
        reached = True
    assert not reached
    assert isinstance(stopped.value, Stopped) and stopped.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) == before


def test_other_threads_leave_signals_alone() -> None:
    seen: list[bool] = []

    def work() -> None:
        with stop_requests() as request, raise_on_sigterm():
            seen.append(request.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
