#!/bin/sh
# Resolve requirements.in anew into requirements.txt, tvm.txt, torch.txt and torch-cuda.txt; and
# beside these every other *.in, for the builds of TVM from source.
# Versions that are locked already stay; `update.sh --upgrade` or `--upgrade-package NAME` moves
# them. The supported Pythons and machines are in pyproject.toml, [tool.uv].
set -eu
cd "$(dirname "$0")"

venv=$PWD/../../.venv
UV=${UV:-$venv/bin/uv}
PYTHON=${PYTHON:-$venv/bin/python}
for program in "$UV" "$PYTHON"; do
    command -v "$program" >/dev/null || {
        echo "error: $program is not there" >&2
        echo "hint: make setup" >&2
        exit 2
    }
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# The resolver takes the versions in its old output as preferences. torch is left out of them: its
# version is pinned by hand, and a CPU hash that was taken out of the list must not linger.
for lock in requirements.txt tvm.txt torch-cuda.txt; do
    if [ -f "$lock" ]; then cat "$lock" >>"$work/lock.txt"; fi
done

# Wheels only, here and when installing: a source distribution would run its own code, and some of
# these fetch binaries from elsewhere while building.
# UV_*INDEX* variables and the user's own configuration still choose the index; none is recorded.
"$UV" pip compile requirements.in --output-file "$work/lock.txt" --quiet \
    --universal --python-version 3.10 --no-python-downloads --only-binary :all: \
    --generate-hashes --no-emit-index-url --no-header "$@"
"$PYTHON" split.py "$work/lock.txt"

# What a source build adds, each on its own: two versions of TVM need two of tvm-ffi. Packages that
# the environment has too are held to its versions.
for list in *.in; do
    if [ "$list" = requirements.in ]; then continue; fi
    name=${list%.in}
    touch "$name.txt"
    "$UV" pip compile "$list" --constraint requirements.txt --constraint torch-cuda.txt \
        --output-file "$name.txt" --quiet \
        --universal --python-version 3.10 --no-python-downloads --only-binary :all: \
        --generate-hashes --no-emit-index-url --no-header "$@"
done
