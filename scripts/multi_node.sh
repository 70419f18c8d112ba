#!/usr/bin/env bash
# Train on several hosts without a scheduler. The same line on every host, but for NODE_RANK:
#     NUM_NODES=2 NODE_RANK=0 MASTER_ADDR=first-host bash scripts/multi_node.sh --config FILE
#     NUM_NODES=2 NODE_RANK=1 MASTER_ADDR=first-host bash scripts/multi_node.sh --config FILE
# Run folder and token store must lie where all hosts see them. NUM_PROCESSES=... on each host
# instead of one for each GPU; MASTER_PORT=... instead of 29500. Started again on all hosts, it goes
# on from the last checkpoint, also with another number of hosts.
set -euo pipefail

for name in NUM_NODES NODE_RANK MASTER_ADDR; do
    if [[ -z "${!name:-}" ]]; then
        echo "error: $name is not set; the head of this script says how to call it" >&2
        exit 2
    fi
done
if [[ -z "${NUM_PROCESSES:-}" ]]; then
    gpus=$(nvidia-smi --list-gpus 2>/dev/null | wc -l) || gpus=0
    NUM_PROCESSES=$((gpus > 0 ? gpus : 1))
fi

# SIGTERM stops all processes at the next step with a checkpoint: torchrun leaves them time for it.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-300}
exec torchrun --nnodes "$NUM_NODES" --node_rank "$NODE_RANK" \
    --nproc_per_node "$NUM_PROCESSES" \
    --master_addr "$MASTER_ADDR" --master_port "${MASTER_PORT:-29500}" \
    -m distilcli train --resume "$@"
