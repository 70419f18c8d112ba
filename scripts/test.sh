#!/usr/bin/env bash
# Style, types and tests in the pinned environment; arguments go to pytest.
# About 10 minutes on 2 cores. One file: bash scripts/test.sh tests/test_losses.py
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh

validate-pyproject pyproject.toml
ruff check
ruff format --check
codespell
mypy
python -m pytest "$@"
