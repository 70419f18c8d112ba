#!/usr/bin/env bash
# Style, types and tests in the pinned environment; arguments go to pytest.
# Under 10 minutes on 2 cores. One file, in one process:
#     bash scripts/test.sh -n 0 tests/losses/test_losses.py
# With --coverage in front, the branches that no test takes are shown, and too many are an error.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh
make_transformers4

validate-pyproject pyproject.toml
ruff check
ruff format --check
codespell
mypy
# A process for each core, up to four. Each starts with a share of the files; one that has nothing
# left to do takes from the others.
tests=(pytest --numprocesses logical --maxprocesses 4 --dist worksteal)
if [[ "${1:-}" == --coverage ]]; then
    rm -rf build/coverage
    mkdir -p build/coverage
    coverage run -m "${tests[@]}" "${@:2}"
    coverage combine --quiet
    coverage report
else
    python -m "${tests[@]}" "$@"
fi
