#!/usr/bin/env bash
# executable.sh FILE [WHEEL]: the self-contained executable for this machine's kind of processor, from the locks;
# kine's own code from this tree. Needs a Python 3.11 or newer built with --enable-shared, gcc, binutils, zstd, and the
# files to compile against libkrb5 and libzstd (Debian: gcc libc6-dev binutils zstd libzstd-dev libkrb5-dev).
set -euo pipefail
output=$(realpath -m "$1")
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m venv "$work/tools"
pip=("$work/tools/bin/pip" install --quiet --disable-pip-version-check)
"${pip[@]}" --require-hashes --requirement release/build-requirements.lock
# No path of this build, and no identity made from it, in what is compiled here.
export CFLAGS="-g0 -ffile-prefix-map=$work=." LDFLAGS=-Wl,--build-id=none TMPDIR="$work"
# pip's cache would give a gssapi that another build has compiled, with other flags.
"${pip[@]}" --no-cache-dir --no-compile --no-deps --no-build-isolation --target "$work/site" \
  --require-hashes --requirement release/requirements.lock
"$work/tools/bin/python" release/executable/build.py "$output" --site "$work/site"
