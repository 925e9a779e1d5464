#!/usr/bin/env bash
# Builds what a release carries into dist/: wheel, sdist, one executable file for this machine's kind, and
# their SHA256SUMS. Needs Python 3.11 or newer; runs the same here and in CI.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
"$python" -m venv "$work/tools"
"$work/tools/bin/pip" install --quiet --disable-pip-version-check build shiv
rm -rf dist
"$work/tools/bin/python" -m build --quiet --outdir dist . >&2

# The base install: an extra's native parts would tie the file to one machine's libraries.
sed -n 's/^\([A-Za-z0-9._-]*==[^ ;\\]*\).*/\1/p' release/requirements.lock > "$work/constraints"
kind="$(uname -s | tr '[:upper:]' '[:lower:]')-$(uname -m)"
PIP_CONSTRAINT="$work/constraints" "$work/tools/bin/shiv" --reproducible --compressed \
  --python '/usr/bin/env python3' --console-script kine --output-file "dist/kine-$kind.pyz" dist/*.whl >&2
(cd dist && sha256sum -- * > SHA256SUMS)
cat dist/SHA256SUMS
