#!/usr/bin/env bash
# Kills a run of two processes again and again, and compares what it ends with to a run that nobody
# disturbed: bash scripts/torture.sh [--kills N] [--json]. See scripts/torture.py.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh
exec python scripts/torture.py "$@"
