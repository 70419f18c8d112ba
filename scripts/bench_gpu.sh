#!/usr/bin/env bash
# On a machine with a CUDA device: what only a GPU can show, then the table of
# scripts/benchmarks/bench.py. Some 10 minutes. PYTHON=... names an interpreter that has distilcli
# and a CUDA build of PyTorch already; without it .venv is made, whose pinned PyTorch comes from the
# package index.
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

echo "Packed attention is padded attention on CUDA; a step waits for nothing:" >&2
"$PYTHON" -m pytest -q -m gpu

table() {
    "$PYTHON" scripts/benchmarks/bench.py \
        --device cuda --size base --max-length 512 --micro-batch 16384 "$@"
}
echo "With the layers compiled:" >&2
table --sequences 256 --rounds 3 --compile
echo "As configured by default:" >&2
table --sequences 256
