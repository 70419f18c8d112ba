"""What commands in one process need in order to stand by themselves."""

import pytest
from accelerate.state import AcceleratorState


@pytest.fixture(autouse=True)
def _alone_on_the_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
