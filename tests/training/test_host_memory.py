"""Freed memory is used again without asking the kernel, and few kernels of oneDNN are kept."""

import os
import resource
import subprocess
import sys

import pytest
import torch

from distilcli.training import host_memory

FAULTS = """
import resource, sys
import torch
from distilcli.training.host_memory import settle_host_memory

if sys.argv[1] == "keep":
    assert settle_host_memory()
def faults(mebibytes):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(mebibytes << 18).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(64)
print(faults(48))
"""


def faults(what: str) -> int:
    """Page faults of 48 MiB after 64 MiB were freed."""
    command = [sys.executable, "-c", FAULTS, what]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone has mallopt")
def test_freed_memory_is_used_again():
    pages = (48 << 20) // resource.getpagesize()
    assert faults("keep") < pages // 10 < pages // 2 < faults("return")


KERNELS = """
import ctypes, os, sys
import torch
from distilcli.training.host_memory import settle_host_memory

class Heap(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Heap
settle_host_memory()
weight = torch.ones(768, 768).bfloat16()
for size in range(1, 193):
    torch.ones(size, 768).bfloat16() @ weight
    if size in (64, 192):
        print(libc.mallinfo2().uordblks)
"""


@pytest.mark.slow
@pytest.mark.skipif(not torch.cpu._is_avx512_bf16_supported(), reason="no products in bf16")
@pytest.mark.parametrize(
    "unbounded", [None, "LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"]
)
def test_kernels_of_old_shapes_are_let_go(unbounded):
    """Unless the environment says of one of the two caches that it may grow."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for variable in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
        environment.pop(variable, None)
    if unbounded is not None:
        environment[unbounded] = "1024"
    command = [sys.executable, "-c", KERNELS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    kept = (after - before) / 2**20
    assert kept > 10 if unbounded else kept < 2


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(host_memory.ctypes, "CDLL", lambda name: object())
    assert not host_memory.settle_host_memory()
