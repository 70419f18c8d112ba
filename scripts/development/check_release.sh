#!/usr/bin/env bash
# Builds dist/*.whl and dist/*.tar.gz and checks them: metadata, contents, and that they work where
# nothing else of this project is, installed by pip from wheel and archive, by uv and by pipx.
# TAG=v0.2.0 also asks that this is the version.
# Some minutes and, with PyTorch for CUDA, some 20 GB below $TMPDIR: the wheel's dependencies are
# downloaded once and installed three times. PYTHON=... names the interpreter to use.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
root=$PWD
PYTHON=${PYTHON:-python3.11}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# An index that is set up for pip alone is found in both environments; versions are the pinned ones.
# They are copied, as pip takes a path with blanks in this variable for several.
cp constraints.txt "$work/constraints.txt"
export PIP_CONSTRAINT=$work/constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1

"$PYTHON" -m venv "$work/build"
"$work/build/bin/pip" install --quiet build pipx twine uv validate-pyproject
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

# build made the wheel of the source archive. That of the tree itself is the same, byte by byte.
"$work/build/bin/python" -m build --wheel --outdir "$work/tree" . >"$work/log"
for folder in dist "$work/tree"; do
    "$work/build/bin/python" - "$folder/distilcli-$version-py3-none-any.whl" <<'EOF'
import hashlib, sys, zipfile
wheel = zipfile.ZipFile(sys.argv[1])
for name in sorted(wheel.namelist()):
    print(hashlib.sha256(wheel.read(name)).hexdigest(), name)
EOF
done >"$work/digests"
if [[ -n "$(sort "$work/digests" | uniq --unique)" ]]; then
    echo "error: the source archive does not build what the tree builds:" >&2
    sort -k 2 "$work/digests" | uniq --unique >&2
    exit 1
fi

# From the index once. All that follows is installed from this folder alone, as docs/install.md says
# for a cluster without internet, whatever index each tool would ask.
wheel=$PWD/dist/distilcli-$version-py3-none-any.whl
"$work/build/bin/pip" download --quiet --dest "$work/wheelhouse" "$wheel" setuptools
export PIP_NO_INDEX=1 PIP_FIND_LINKS=$work/wheelhouse
export UV_NO_INDEX=1 UV_FIND_LINKS=$work/wheelhouse UV_PYTHON_DOWNLOADS=never
export UV_CACHE_DIR=$work/uv UV_CONSTRAINT=$work/constraints.txt
export PIPX_HOME=$work/pipx PIPX_BIN_DIR=$work/pipx/bin PIPX_MAN_DIR=$work/pipx/man

check_version() {
    local found
    found=$("$@" --version)
    if [[ "$found" != "$version" ]]; then
        echo "error: $1: version $version says that it is '$found'" >&2
        exit 1
    fi
}

archive=$PWD/dist/distilcli-$version.tar.gz
cd "$work" # so that nothing is imported from here
unset PYTHONPATH
"$PYTHON" -m venv clean
clean/bin/pip install --quiet "$archive"
check_version clean/bin/distilcli
clean/bin/pip install --quiet --no-deps --force-reinstall "$wheel"
check_version clean/bin/distilcli
clean/bin/pip check

# The shipped teacher and text, from the wheel: text is prepared and two sequences are measured.
there=(--config "$root/configs/quickstart.yaml" "data.store=$work/store" "output_dir=$work/runs")
export HF_HUB_OFFLINE=1
clean/bin/distilcli prepare "${there[@]}"
clean/bin/distilcli eval builtin:teacher "${there[@]}" --num-sequences 2
# The experiments that `distilcli new` starts from are there, too.
clean/bin/distilcli new quickstart first.yaml
rm -rf clean # each of these environments is large

check_version build/bin/uv tool run --python "$PYTHON" --from "$wheel" distilcli
rm -rf uv
check_version build/bin/pipx run --python "$PYTHON" --spec "$wheel" distilcli
echo "dist/ holds distilcli $version: checked" >&2
