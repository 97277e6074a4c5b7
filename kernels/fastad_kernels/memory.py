"""What the C library does with memory that is given back to it."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

# As glibc's malloc.h numbers them.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD = 2**25  # glibc takes no larger one
_KEPT = 2**29
_SETTINGS = ("MALLOC_", "GLIBC_TUNABLES")


@contextmanager
def keeping_freed_memory() -> Iterator[None]:
    """Let freed memory wait for the next tensors, instead of going back to the system.

    An update allocates what the one before it has freed. By default glibc returns it in between,
    and the system clears every page anew: 1,200 of them per update of a quick preset, 4 to 10 % of
    its time. Within the block as much as half a gigabyte is kept; behind it, all goes back. That
    tensors of up to 32 MB come from the heap, and no longer from a mapping each, stays so.

    Where the user has set how malloc works, or there is no glibc, nothing happens.
    """
    library = ctypes.CDLL(None) if os.name == "posix" else None
    mallopt, trim = (getattr(library, name, None) for name in ("mallopt", "malloc_trim"))
    is_set = any(name.startswith(_SETTINGS) for name in os.environ)
    if is_set or mallopt is None or trim is None:
        yield
        return
    mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
    mallopt(_TRIM_THRESHOLD, _KEPT)
    try:
        yield
    finally:
        mallopt(_TRIM_THRESHOLD, 2 * _LARGEST_MMAP_THRESHOLD)  # what glibc may come to by itself
        trim(0)
