"""Memory that is freed stays with the process: an image learner's tensors are of a few MB, and made anew all the time.

glibc gives blocks of that size back to the system as soon as they are freed, and the system clears each page again when
it is asked for: 5 to 30 % of a meta-step. Nothing is changed where the C library is another.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # malloc.h


def keep_freed_memory() -> bool:
    """Tell malloc, for the rest of the process, to keep what is freed; whether it could be told."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    never = -1
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, never))
