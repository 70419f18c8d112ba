#!/usr/bin/env bash
# Builds dist/*.whl and dist/*.tar.gz and checks them: metadata, contents, and that the wheel works
# where nothing else of this project is. TAG=v0.2.0 also asks that this is the version.
# Some minutes: the wheel's dependencies are installed into a new environment. PYTHON=... names the
# interpreter to build and install with.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
root=$PWD
PYTHON=${PYTHON:-python3.11}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# An index that is set up for pip alone is found in both environments; versions are the pinned ones.
export PIP_CONSTRAINT=$root/constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1

"$PYTHON" -m venv "$work/build"
"$work/build/bin/pip" install --quiet build twine validate-pyproject
"$work/build/bin/validate-pyproject" pyproject.toml
rm -rf dist build/lib build/bdist.*
"$work/build/bin/python" -m build --outdir dist .
"$work/build/bin/twine" check --strict dist/*

version=$("$work/build/bin/python" -c "
import pathlib, re
text = pathlib.Path('distilcli/__init__.py').read_text()
print(re.search(r'__version__ = \"(.+)\"', text)[1])")
if [[ -n "${TAG:-}" && "$TAG" != "v$version" ]]; then
    echo "error: the tag is $TAG, but distilcli/__init__.py says $version" >&2
    exit 1
fi
if ! grep -q "^## \[$version\]" CHANGELOG.md; then
    echo "error: CHANGELOG.md has no section [$version]" >&2
    exit 1
fi

# Every file of the package that git knows is in the wheel, and nothing else.
git ls-files distilcli | sort >"$work/expected"
"$work/build/bin/python" -m zipfile --list "dist/distilcli-$version-py3-none-any.whl" |
    awk '$1 ~ /^distilcli\// {print $1}' | sort >"$work/found"
diff "$work/expected" "$work/found" || {
    echo "error: the wheel does not hold what git holds (< git, > wheel)" >&2
    exit 1
}

"$PYTHON" -m venv "$work/clean"
"$work/clean/bin/pip" install --quiet "dist/distilcli-$version-py3-none-any.whl"
cd "$work" # so that nothing is imported from here
unset PYTHONPATH
found=$(clean/bin/distilcli --version)
if [[ "$found" != "$version" ]]; then
    echo "error: the wheel of $version says that it is $found" >&2
    exit 1
fi
# The shipped teacher and text, from the wheel: text is prepared and two sequences are measured.
there=(--config "$root/configs/quickstart.yaml" "data.store=$work/store" "output_dir=$work/runs")
export HF_HUB_OFFLINE=1
clean/bin/distilcli prepare "${there[@]}"
clean/bin/distilcli eval builtin:teacher "${there[@]}" --num-sequences 2
echo "dist/ holds distilcli $version: checked" >&2
