"""A model that stands in for a teacher that was fine-tuned."""

from pathlib import Path

import pytest
from tiny_suites import regression_model


@pytest.fixture(scope="session")
def expert(tmp_path_factory) -> Path:
    return regression_model(tmp_path_factory.mktemp("expert"), 1)
