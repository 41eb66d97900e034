"""What the C library does with freed memory."""

from __future__ import annotations

import ctypes


def keep_freed_memory() -> bool:
    """Make malloc keep freed memory for the rest of the process; return whether it does.

    Autograd allocates tensors of a few MB all the time. glibc returns blocks of that size to the system, which clears
    their pages for the next allocation: 5 to 30 % of an image learner's meta-step. Other C libraries are left as they
    are.
    """
    trim_threshold, mmap_max = -1, -4  # malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(mmap_max, 0)) and bool(mallopt(trim_threshold, -1))
