"""A run folder is one run's at a time; `test_several_processes.py` has two for the same one."""

import pytest

from distilcli.errors import RunFolderError
from distilcli.training.run_lock import locked_run


def test_a_folder_that_nobody_uses_is_entered_at_once(tmp_path):
    for _ in range(2):
        with locked_run(tmp_path, 0.0, pytest.fail):
            assert (tmp_path / ".lock").exists()


@pytest.mark.parametrize("made", ["", "runs", "runs/x"])
def test_a_mistake_leaves_what_was_there_before(tmp_path, made):
    (tmp_path / made).mkdir(parents=True, exist_ok=True)
    (tmp_path / made / "mine").touch()
    before = set(tmp_path.rglob("*"))

    def enter_and_fail() -> None:
        with locked_run(tmp_path / "runs" / "x", 0.0, pytest.fail):
            assert (tmp_path / "runs" / "x" / ".lock").exists()
            raise RunFolderError("no")

    with pytest.raises(RunFolderError, match="no"):
        enter_and_fail()
    assert set(tmp_path.rglob("*")) == before


def test_a_run_that_fails_keeps_what_it_has_written(tmp_path):
    def enter_and_fail() -> None:
        with locked_run(tmp_path / "x", 0.0, pytest.fail):
            (tmp_path / "x" / "metrics.jsonl").touch()
            raise RunFolderError("no")

    with pytest.raises(RunFolderError, match="no"):
        enter_and_fail()
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["metrics.jsonl"]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / ".lock").mkdir()
    with (
        pytest.raises(RunFolderError, match="cannot be written"),
        locked_run(tmp_path, 0.0, pytest.fail),
    ):
        pass
