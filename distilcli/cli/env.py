"""`distilcli env`: versions, machine and devices, as whoever reports a problem needs them."""

from collections.abc import Iterator
from typing import Any

from distilcli.cli.console import Console
from distilcli.training.environment import describe_environment


def run(console: Console) -> None:
    """Show what `describe_environment` finds."""
    found = describe_environment()
    del found["command"], found["commit"]  # of this command and this folder: they say nothing
    for line in _lines(found):
        console.say(line)
    if found["problem"]:
        console.warn(f"PyTorch or transformers cannot be used ({found['problem']})")
    console.result(found)


def _lines(found: dict[str, Any]) -> Iterator[str]:
    """One fact a line, which can be pasted into a report as it is."""
    commit = found["distilcli_commit"]
    yield f"distilcli {found['distilcli']}" + (f" (commit {commit})" if commit else "")
    yield f"Python {found['python']}"
    yield found["platform"]
    for package, version in found["packages"].items():
        yield f"{package} {version}"
    cores, usable = found["cpu_cores"], found["cpu_cores_usable"]
    of = "" if usable == cores else f" of {cores}"
    threads = found["cpu_threads"] or "unknown"
    bf16 = _bf16(found["cpu_bf16"])
    yield f"CPU: {found['cpu']}, {usable}{of} cores, threads of PyTorch: {threads}, {bf16}"
    yield f"memory: {found['memory_gib']} GiB"
    driver = f", driver {found['cuda_driver']}" if found["cuda_driver"] else ""
    yield f"CUDA: {found['cuda'] or 'PyTorch was built without it'}{driver}"
    for index, device in enumerate(found["cuda_devices"]):
        words = device["name"], f"{device['memory_gib']} GiB", _bf16(device["bf16"])
        yield f"GPU {index}: {', '.join(words)}"
    if not found["cuda_devices"]:
        yield "GPU: none"
    for name, value in found["variables"].items():
        yield f"{name}={value}"


def _bf16(has: bool | None) -> str:
    return {True: "computes in bf16", False: "no bf16", None: "bf16 unknown"}[has]
