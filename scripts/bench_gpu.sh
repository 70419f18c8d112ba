#!/usr/bin/env bash
# On a machine with a CUDA device: bash scripts/bench_gpu.sh [correctness|table|profile]...
#   correctness  what only a GPU can show: the tests marked gpu (some 2 minutes)
#   profile      the costliest kernels of a step and the idle share of the device (1 minute)
#   table        speeds beside padded PyTorch, shares of the peak (SECONDS_FOR_TABLE, default 225)
# Without arguments all three, in this order; one that fails keeps no other from running.
# PYTHON=... names an interpreter that has distilcli and a CUDA build of PyTorch already; without it
# .venv is made, whose pinned PyTorch comes from the package index.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [[ -z "${PYTHON:-}" ]]; then
    source scripts/environment.sh
    PYTHON=python
fi

"$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || {
    echo "error: PyTorch sees no CUDA device; on a CPU run python scripts/benchmarks/bench.py" >&2
    exit 1
}

part() {
    case "$1" in
        correctness)
            # Their files alone: collecting all tests takes longer than these. What another PyTorch
            # than the pinned one warns of fails nothing here.
            grep -rl --include 'test_*.py' 'mark\.gpu' tests |
                xargs "$PYTHON" -m pytest -q -m gpu -W default --timeout 120 -p no:cacheprovider
            ;;
        profile) "$PYTHON" scripts/benchmarks/gpu_table.py --profile ;;
        table) "$PYTHON" scripts/benchmarks/gpu_table.py --seconds "${SECONDS_FOR_TABLE:-225}" ;;
        *)
            echo "error: $1: there are correctness, profile and table" >&2
            return 2
            ;;
    esac
}

failed=0
if [[ $# -eq 0 ]]; then
    set -- correctness profile table
fi
for name in "$@"; do
    part "$name" || failed=$?
done
exit "$failed"
