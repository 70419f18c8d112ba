"""Teachers' outputs in parts so small that a few inputs fill several."""

import pytest

from distilcli.distillation import teacher_outputs


@pytest.fixture
def small_parts(monkeypatch) -> None:
    monkeypatch.setattr(teacher_outputs, "PART", 4)
