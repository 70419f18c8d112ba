#!/usr/bin/env bash
# Kills a run of two processes again and again, and compares what it ends with to a run that nobody
# disturbed: bash scripts/development/torture.sh [--kills N] [--json]. See torture.py.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source scripts/environment.sh
exec python scripts/development/torture.py "$@"
