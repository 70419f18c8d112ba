"""Memory of the host that a training step uses again and again.

glibc gives freed memory back to the kernel, which hands it out again page by page, each filled
with zeros. A step on a CPU frees and takes gigabytes, and would spend up to a fifth of its time in
that. What PyTorch holds for a GPU it keeps anyway.

oneDNN, with which PyTorch multiplies bf16, and ideep, PyTorch's layer over it, each keep the last
1,024 kernels that they made, one for each shape. Packed batches have new shapes at every step, a
kernel takes a quarter of a megabyte, and kernels that come to lie between tensors leave gaps that
no tensor fits: a run of BERT-base grew by 0.1 GiB a step over its first thirty.
"""

import ctypes
import os

# mallopt(3): since glibc 2.3.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_BYTES = 2**30
# The layers of a micro-batch share some twenty shapes of their own, and five for each length that
# sequences are padded to in attention.
_NUM_KERNELS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64", "LRU_CACHE_CAPACITY": "64"}


def settle_host_memory() -> bool:
    """Have this process keep the memory that it frees and few kernels; before it computes.

    A capacity that the environment sets is left as it is. Returns False where the C library
    knows no such settings, or not these: freed memory then goes its own way.
    """
    for variable, capacity in _NUM_KERNELS.items():
        os.environ.setdefault(variable, capacity)
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    # Memory of larger tensors goes back when freed, and the end of the heap when it is longer.
    taken = [mallopt(option, _BYTES) for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD)]
    return taken == [1, 1]
