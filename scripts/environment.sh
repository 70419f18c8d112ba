#!/usr/bin/env bash
# Sourced by the other scripts, from the project's root: makes .venv with the pinned packages and
# activates it. PYTHON=... names the interpreter to build it with.
# Some minutes the first time (torch is large); under a second when nothing has changed.
set -euo pipefail

find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "error: no Python 3.11 or newer found; install one or set PYTHON=/path/to/python" >&2
    return 1
}

make_environment() {
    local python stamp=.venv/installed wanted
    # The stamp names what was installed, so a changed pin or dependency is installed once.
    wanted=$(cat pyproject.toml constraints.txt | cksum)
    if [[ -x .venv/bin/python && "$(cat "$stamp" 2>/dev/null)" == "$wanted" ]]; then
        return
    fi
    if [[ ! -w . ]]; then
        echo "error: you may not write to $PWD, where .venv is made; use a copy of your own" >&2
        return 1
    fi
    python=$(find_python)
    echo "making .venv with $("$python" --version); this takes some minutes" >&2
    if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        "$python" -m venv --clear .venv || {
            echo "error: $python cannot make a virtual environment (on Debian and Ubuntu:" \
                "install python3-venv)" >&2
            return 1
        }
    fi
    .venv/bin/python -m pip install --quiet --disable-pip-version-check \
        --constraint constraints.txt --editable '.[dev,track]'
    echo "$wanted" >"$stamp"
}

# The last release of transformers 4, beside the packages of .venv: tests load students with it.
# Only what cannot be the same there: its own versions of two packages that it is made for.
make_transformers4() {
    local folder=.venv/transformers4
    local packages=(transformers==4.57.6 huggingface-hub==0.36.2 tokenizers==0.22.2)
    if [[ "$(cat "$folder/installed" 2>/dev/null)" == "${packages[*]}" ]]; then
        return
    fi
    rm -rf "$folder"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
        --target "$folder" "${packages[@]}"
    echo "${packages[*]}" >"$folder/installed"
}

make_environment
# shellcheck disable=SC1091
source .venv/bin/activate
