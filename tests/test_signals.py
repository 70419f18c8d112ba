"""A first signal is remembered; a later one, the second or third, ends the process at once."""

import os
import signal
import subprocess
import sys

import pytest

from distilcli.signals import STOP_SIGNALS, StopSignals, exit_signal

LISTENER = """
import sys, time
from distilcli import signals

signals._SECONDS_OF_ONE_REQUEST = float(sys.argv[1])
with signals.StopSignals().listening() as stop:
    print("listening", flush=True)
    while not stop.received:
        time.sleep(0.01)
    print(f"remembered {int(stop.received)}", flush=True)
    sys.stdin.readline()
print("out", flush=True)
sys.stdin.readline()
"""


def listen(
    seconds_of_one_request: float, program: str = LISTENER, **environment: str
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, str(seconds_of_one_request)],
        env=os.environ | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("second", STOP_SIGNALS)
@pytest.mark.parametrize("first", STOP_SIGNALS)
def test_a_second_signal_leaves_at_once(first, second):
    with listen(0.0) as process:
        assert process.stdout.readline() == "listening\n"
        process.send_signal(first)
        assert process.stdout.readline() == f"remembered {int(first)}\n"
        assert process.poll() is None
        process.send_signal(second)
        assert process.wait(timeout=600) == -second
        said = f"left at once, by {second.name} after an earlier request to stop\n"
        assert process.stderr.read() == said


def test_a_third_signal_is_as_a_second_one():
    """Within two seconds both are one request with the first."""
    with listen(60.0) as process:
        assert process.stdout.readline() == "listening\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == f"remembered {int(signal.SIGTERM)}\n"
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        process.stdin.write("leave the block\nend\n")
        process.stdin.flush()
        assert process.wait(timeout=600) == 0
        assert process.stderr.read() == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_nohup_is_obeyed(number):
    """SIGHUP that is ignored at the start stays ignored; every other signal is heard."""
    ignoring = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    with listen(60.0, program=ignoring + LISTENER) as process:
        assert process.stdout.readline() == "listening\n"
        process.send_signal(signal.SIGHUP)
        process.send_signal(number)
        assert process.stdout.readline() == f"remembered {int(number)}\n"
        process.stdin.close()
        assert process.wait(timeout=600) == 0


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 15), (signal.SIGINT, 2), (signal.SIGHUP, 1), (signal.SIGUSR1, 15)],
)
def test_what_the_exit_code_tells_of(number, code):
    assert exit_signal(number) == code


def test_one_request_may_come_twice_and_torchrun_tidies_up_in_vain():
    """A scheduler tells every process, torchrun tells its own; then it ends those that are left."""
    with listen(60.0, TORCHELASTIC_RUN_ID="some") as process:
        assert process.stdout.readline() == "listening\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == f"remembered {int(signal.SIGTERM)}\n"
        process.send_signal(signal.SIGTERM)
        process.stdin.write("leave the block\n")
        process.stdin.flush()
        assert process.stdout.readline() == "out\n"
        process.send_signal(signal.SIGTERM)
        process.stdin.close()
        assert process.wait(timeout=600) == 0


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    with StopSignals().listening():
        assert [signal.getsignal(number) for number in STOP_SIGNALS] != before
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before
