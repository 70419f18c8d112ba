"""Freed memory is used again, without asking the kernel."""

import resource
import subprocess
import sys

import pytest

from distilcli import host_memory

FAULTS = """
import resource, sys
import torch
from distilcli.host_memory import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
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


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(host_memory.ctypes, "CDLL", lambda name: object())
    assert not host_memory.keep_freed_memory()
