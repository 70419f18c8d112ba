"""Freed memory is used again without asking the kernel, and few kernels of oneDNN are kept."""

import os
import resource
import subprocess
import sys

import pytest
import torch

from distilcli import host_memory

FAULTS = """
import resource, sys
import torch
from distilcli.host_memory import settle_host_memory

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


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone has mallopt")
def test_freed_memory_is_used_again():
    pages = (48 << 20) // resource.getpagesize()
    assert faults("keep") < pages // 10 < pages // 2 < faults("return")


KERNELS = """
import torch
from distilcli.host_memory import settle_host_memory

settle_host_memory()
weight = torch.eye(8)
for size in [1, *range(2, 64), 63, 1]:
    inputs = torch.ones(size, 8).to_mkldnn()
    print("size", size, flush=True)
    torch.ops.aten.mkldnn_linear(inputs, weight, None)
"""


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN")
@pytest.mark.parametrize("chosen", [None, "1024"])
def test_kernels_of_old_shapes_are_let_go(chosen):
    environment = os.environ | {"ONEDNN_VERBOSE": "profile_create"}
    for variable in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        environment.pop(variable, None)
        if chosen is not None:
            environment[variable] = chosen
    command = [sys.executable, "-c", KERNELS]
    log = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    *_, newest, oldest = log.stdout.split("size ")
    assert "cache_hit,cpu,inner_product" in newest
    assert ("cache_hit" if chosen else "cache_miss") + ",cpu,inner_product" in oldest


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(host_memory.ctypes, "CDLL", lambda name: object())
    assert not host_memory.settle_host_memory()
