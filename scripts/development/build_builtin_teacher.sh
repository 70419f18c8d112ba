#!/usr/bin/env bash
# Makes the English teacher that ships in distilcli/builtin/teacher: 12 layers, 256 wide, from
# random weights, on Wikipedia and novels; the tokenizer is the one that ships already.
# Some 10 minutes with one large GPU; stop it at any time and call it again, it goes on from the
# last checkpoint. PYTHON=... names an interpreter that has distilcli and a CUDA build of PyTorch.
# Needs corpora/wikipedia.jsonl.gz and corpora/novels.jsonl.gz (one {"title", "text"} a line).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if [[ -z "${PYTHON:-}" ]]; then
    source scripts/environment.sh
    PYTHON=python
fi

for text in corpora/wikipedia.jsonl.gz corpora/novels.jsonl.gz; do
    if [[ ! -f "$text" ]]; then
        echo "error: $text is missing" >&2
        exit 2
    fi
done

if [[ ! -f build/bert-12x256/config.json ]]; then
    "$PYTHON" scripts/development/random_bert.py --layers 12 --hidden 256 --output build/bert-12x256
fi
for part in builtin-teacher builtin-teacher-512; do
    "$PYTHON" -m distilcli train --config "configs/$part.yaml" --resume
done
"$PYTHON" scripts/development/ship_builtin_teacher.py
