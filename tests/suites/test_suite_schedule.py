"""In which order the runs of a suite are taken, with jobs that only count."""

import itertools
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scheduled_runs import MIXED_RUNS, Scheduled

from distilcli.errors import Interrupted

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


@given(
    num_jobs=st.integers(1, 5),
    looks=st.lists(st.integers(0, 4), min_size=len(MIXED_RUNS), max_size=len(MIXED_RUNS)),
    failing=st.sets(st.sampled_from([run.name for run in MIXED_RUNS]), max_size=5),
)
def test_every_run_is_taken_once_after_its_teacher(num_jobs, looks, failing):
    scheduled = Scheduled(MIXED_RUNS, num_jobs, looks, failing)
    results, failed = scheduled.take()
    names = [job.run.name for job in scheduled.started]
    assert len(set(names)) == len(names)
    given_up = {f"pairs/distilled-{seed}" for seed in (1, 2) if f"pairs/teacher-{seed}" in failing}
    assert set(names) == {run.name for run in MIXED_RUNS} - given_up
    assert sorted(failed) == sorted(failing | given_up)
    assert results == {
        (run.task, run.model, run.seed): {"accuracy": run.seed / 8}
        for run in MIXED_RUNS
        if run.name not in failed
    }
    assert not any(job.signals for job in scheduled.started)
    for job in scheduled.started:  # each is told of, with its score or the end of its log
        about = [note for note in scheduled.notes if note.startswith(job.run.name)]
        failed_it = job.run.name in failing
        word = f"failed: see {job.log}" if failed_it else f"{12.5 * job.run.seed:.1f}"
        assert len(about) == 1
        assert word in about[0]
        if failed_it:
            at = scheduled.notes.index(about[0])
            assert scheduled.notes[at + 1 : at + 3] == ["  the end of", f"  {job.run.name}"]


def test_one_at_a_time_goes_in_order():
    scheduled = Scheduled(MIXED_RUNS, 1, [2] * len(MIXED_RUNS), set())
    scheduled.take()
    assert [job.run for job in scheduled.started] == MIXED_RUNS
    assert scheduled.notes[0] == "0 runs are done, 14 are to do, 1 at a time"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_stops_what_runs(number):
    scheduled = Scheduled(MIXED_RUNS, 3, [1, 1, 99, 1] + [99] * 10, set())
    looks = itertools.count(1)
    scheduled.at_look.append(lambda: next(looks) == 6 and signal.raise_signal(number))
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as caught:
        scheduled.take()
    assert caught.value.exit_code == 128 + number
    assert signal.getsignal(number) == before
    assert len(scheduled.started) == 6
    for job in scheduled.started[:3]:
        assert (job.finished, job.signals) == (True, [])
    for job in scheduled.started[3:]:
        assert (job.finished, job.waited) == (False, True)
        assert job.signals == [signal.SIGTERM]


def test_whatever_goes_wrong_no_run_goes_on_unseen():
    scheduled = Scheduled(MIXED_RUNS, 2, [99] * 14, set())
    looks = itertools.count(1)

    def fail() -> None:
        if next(looks) == 3:
            raise RuntimeError("out of order")

    scheduled.at_look.append(fail)
    with pytest.raises(RuntimeError, match="out of order"):
        scheduled.take()
    assert [(job.signals, job.waited) for job in scheduled.started] == [
        ([signal.SIGTERM], True)
    ] * 2
