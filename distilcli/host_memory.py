"""Memory of the host that a training step uses again and again.

glibc gives freed memory back to the kernel, which hands it out again page by page, each filled
with zeros. A step on a CPU frees and takes gigabytes, and would spend up to a fifth of its time in
that. What PyTorch holds for a GPU it keeps anyway.
"""

import ctypes

# mallopt(3): since glibc 2.3.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_BYTES = 2**30


def keep_freed_memory() -> bool:
    """Have this process keep the memory that it frees, for its next allocations.

    The peak stays what it was. Returns False where the C library is not glibc: nothing changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    # Memory of larger tensors goes back when freed, and the end of the heap when it is longer.
    return all(mallopt(option, _BYTES) == 1 for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD))
