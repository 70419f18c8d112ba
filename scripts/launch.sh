#!/usr/bin/env bash
# Train on every GPU of this machine; started again, it goes on from the last checkpoint.
#     bash scripts/launch.sh --config FILE [OVERRIDES]
# NUM_PROCESSES=... instead of one for each GPU. distilcli must be installed (activate .venv first).
set -euo pipefail

if (($# == 0)); then
    echo "usage: bash scripts/launch.sh --config FILE [OVERRIDES]" >&2
    exit 2
fi
if [[ -z "${NUM_PROCESSES:-}" ]]; then
    gpus=$(nvidia-smi --list-gpus 2>/dev/null | wc -l) || gpus=0
    NUM_PROCESSES=$((gpus > 0 ? gpus : 1))
fi

# SIGTERM stops all processes at the next step with a checkpoint: torchrun leaves them time for it.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-300}
exec torchrun --standalone --nproc_per_node "$NUM_PROCESSES" -m distilcli train --resume "$@"
