"""A run folder is one run's at a time; `test_resume.py` has two that want the same one."""

import pytest

from distilcli.errors import RunFolderError
from distilcli.run_lock import locked


def test_a_folder_that_nobody_uses_is_entered_at_once(tmp_path):
    for _ in range(2):
        with locked(tmp_path, 0.0, pytest.fail):
            assert (tmp_path / ".lock").exists()


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / ".lock").mkdir()
    with (
        pytest.raises(RunFolderError, match="cannot be written"),
        locked(tmp_path, 0.0, pytest.fail),
    ):
        pass
