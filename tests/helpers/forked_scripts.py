"""Programs in processes forked from the server of `tiny_experiments`, in place of new Pythons.

A new Python takes some 5 seconds of CPU to import PyTorch and transformers before it does anything.
"""

import contextlib
import ctypes
import faulthandler
import multiprocessing
import os
import runpy
import signal
import stat
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import torch
from tiny_experiments import SECONDS_TO_HANG, fork_server

PR_SET_PDEATHSIG = 1
ROOT = Path(__file__).resolve().parents[2]


class ForkedPopen:
    """In place of `subprocess.Popen` for `[sys.executable, FILE or -m MODULE, ...]`.

    The program runs in a process that has imported everything; what torchrun starts, too: its own
    agent looks after ranks that are forked.
    """

    def __init__(
        self,
        words: Sequence[str],
        env: dict[str, str],
        stdin: int | None = None,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        text: bool = False,
        cwd: Path | None = None,
    ) -> None:
        assert words[0] == sys.executable
        # What is forked has its modules already, wherever PYTHONPATH points to.
        assert env["PYTHONPATH"].split(os.pathsep)[0] == str(ROOT)
        assert cwd in (None, ROOT)
        self.stdin: IO[Any] | None = None
        self.stdout: IO[Any] | None = None
        mode = "" if text else "b"
        streams = {}
        if stdin == subprocess.PIPE:
            streams[0], own = Pipe(duplex=False)
            self.stdin = os.fdopen(os.dup(own.fileno()), f"w{mode}")
        if stdout == subprocess.PIPE:
            own, streams[1] = Pipe(duplex=False)
            self.stdout = os.fdopen(os.dup(own.fileno()), f"r{mode}")
        elif stdout is not None:
            streams[1] = _writing(stdout)
        if stderr is not None:
            streams[2] = _writing(stderr)
        self.process = fork_server().Process(
            target=_become, args=(tuple(words[1:]), env, streams), daemon=True
        )
        self.process.start()
        self.pid, self.kill = self.process.pid, self.process.kill

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self.process.join(timeout)
        assert self.process.exitcode is not None, f"still running after {timeout} s"
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def __enter__(self) -> "ForkedPopen":
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()

    def communicate(self) -> tuple[Any, None]:
        if self.stdin is not None:
            self.stdin.close()
        output = None
        if self.stdout is not None:
            output = self.stdout.read()
            self.stdout.close()
        self.wait()
        return output, None


def _writing(target: int | IO[Any]) -> Connection:
    if target == subprocess.DEVNULL:
        return Connection(os.open(os.devnull, os.O_WRONLY), readable=False)
    assert not isinstance(target, int)
    return Connection(os.dup(target.fileno()), readable=False)


def run(words: Sequence[str], check: bool = False, **named: Any) -> SimpleNamespace:
    """In place of `subprocess.run`."""
    assert not check
    process = ForkedPopen(words, **named)
    output, _ = process.communicate()
    return SimpleNamespace(stdout=output, returncode=process.returncode)


# What a script knows as `subprocess`.
forked = SimpleNamespace(Popen=ForkedPopen, run=run, PIPE=subprocess.PIPE)


def _become(words: tuple[str, ...], env: dict[str, str], streams: dict[int, Connection]) -> None:
    for descriptor, stream in streams.items():
        os.dup2(stream.fileno(), descriptor)
        stream.close()
    if 0 in streams:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    multiprocessing.current_process()._config["daemon"] = False  # it may start some of its own
    faulthandler.dump_traceback_later(SECONDS_TO_HANG, exit=True)
    os.environ.clear()
    os.environ.update(env)
    from torch.distributed import run as torchrun

    torchrun.elastic_launch = partial(_launch_forks, torchrun.elastic_launch)
    _run(*words)


def _run(*words: str) -> None:
    """What `python WORDS` does."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if words[0] == "-u":
        words = words[1:]
    if words[:2] == ("-m", "torch.distributed.run"):
        sys.modules["torch.distributed.run"].main(list(words[2:]))
    elif words[0] == "-m":
        sys.argv = list(words[1:])
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(words)
        sys.path.insert(0, str(Path(words[0]).parent))
        runpy.run_path(words[0], run_name="__main__")


def _launch_forks(launch: Any, config: Any, entrypoint: str) -> Any:
    assert entrypoint == sys.executable
    config.start_method = "fork"
    return launch(config, _run_rank)


def _run_rank(*words: str) -> None:
    """What `python WORDS` does below torchrun: it notices by itself when that is killed."""
    torchrun, control = os.getppid(), ctypes.CDLL(None).prctl
    control(PR_SET_PDEATHSIG, 0)  # not by the signal that forked ranks get
    for name in os.listdir("/proc/self/fd"):  # and torchrun's sockets are not open here, too
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                os.close(int(name))
    try:
        _run(*words)
    finally:
        # Forked ranks wait until torchrun has read what they return.
        control(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != torchrun:
            os._exit(0)
