#!/usr/bin/env bash
# The main job on the built-in English teacher and text: prepare, initialise, train, evaluate, with
# a student from random weights beside it. Under 6 minutes on 2 cores once .venv is there.
# Can be run again: it starts the two trainings afresh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh

config=(--config configs/quickstart.yaml)

distilcli prepare "${config[@]}"
distilcli init-student "${config[@]}" --force
distilcli train "${config[@]}" --force
# The same steps from random weights: what the copied layers are worth.
distilcli train "${config[@]}" --force name=quickstart-random student.kind=random

distilcli eval builtin:teacher runs/quickstart/initial-student runs/quickstart/student \
    runs/quickstart-random/student "${config[@]}"

echo
echo "The student is an ordinary transformers folder; load it with"
echo "    AutoModelForMaskedLM.from_pretrained(\"$PWD/runs/quickstart/student\")"
