"""Progress lines of commands that take long."""

from __future__ import annotations

import time

from dynlm.runtime.text import printable


class Progress:
    """Prints what is being done, with the seconds since this object was made; nothing when ``quiet``."""

    def __init__(self, quiet: bool):
        self._quiet, self._begin = quiet, time.monotonic()

    def __call__(self, what: str) -> None:
        if not self._quiet:
            print(f"[{time.monotonic() - self._begin:5.0f} s] {printable(what)}", flush=True)
