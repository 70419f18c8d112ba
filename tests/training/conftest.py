"""The run to which those that were killed or stopped are compared."""

from pathlib import Path

import pytest
from disturbed_runs import command, finish


@pytest.fixture(scope="session")
def undisturbed(tiny_world, tmp_path_factory) -> Path:
    """The run that nobody disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(command(tiny_world, folder))
    return folder
