#!/usr/bin/env bash
# Builds what a release carries into dist/: wheel, sdist, the executable kine-ARCH for this machine's kind of
# processor, their sums. What it needs is in executable.sh; runs the same here and in CI.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
"$python" -m venv "$work/tools"
"$work/tools/bin/pip" install --quiet --disable-pip-version-check --require-hashes \
  --requirement release/build-requirements.lock
rm -rf dist
# With what the lock has: an isolated build would install the newest setuptools, unchecked.
"$work/tools/bin/python" -m build --quiet --no-isolation --outdir dist . >&2

"$python" release/repack.py dist/*.tar.gz "$SOURCE_DATE_EPOCH"

case $(uname -m) in x86_64) arch=amd64 ;; aarch64) arch=arm64 ;; armv7*) arch=arm ;; *) arch=$(uname -m) ;; esac
PYTHON="$python" bash release/executable.sh "dist/kine-$arch"
cd dist
# The names that scripts download.
sha256sum "kine-$arch" > "sha256sum-$arch.txt"
sha256sum -- *.whl *.tar.gz kine-* > SHA256SUMS
cat SHA256SUMS
