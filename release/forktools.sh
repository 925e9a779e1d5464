#!/usr/bin/env bash
# forktools.sh DIRECTORY: a virtual environment with forktools of this tree and nothing of the server, every
# package by its hash. For gates: nothing of what is judged runs.
set -euo pipefail
directory=$(realpath -m "$1")
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m venv "$work/build"
"$python" -m venv "$directory"
"$work/build/bin/pip" install --quiet --disable-pip-version-check --require-hashes \
  --requirement release/build-requirements.lock
"$directory/bin/pip" install --quiet --disable-pip-version-check --require-hashes \
  --requirement release/forktools.lock
# What a build leaves behind stays out of the tree.
cp -R forktools "$work/forktools"
KINE_VERSION=${KINE_VERSION:-$(git rev-parse --verify --quiet HEAD || true)} \
  "$work/build/bin/pip" wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation \
  --wheel-dir "$work/wheel" "$work/forktools"
"$directory/bin/pip" install --quiet --disable-pip-version-check --no-deps --no-index "$work"/wheel/*.whl
