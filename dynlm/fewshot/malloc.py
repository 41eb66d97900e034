"""Memory that is freed stays with the process: image learners allocate tensors of a few MB all the time.

glibc returns blocks of that size to the system, which clears their pages for the next allocation: 5 to 30 % of a
meta-step. Other C libraries are left as they are.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # malloc.h


def keep_freed_memory() -> bool:
    """Make malloc keep freed memory for the rest of the process; return whether it does."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))
