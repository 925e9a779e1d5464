#!/usr/bin/env bash
# Writes the lock file that the image and the executable are built from: every version, with its hashes.
set -euo pipefail
cd "$(dirname "$0")/.."
uv pip compile --quiet pyproject.toml --extra kerberos --extra nats-embedded \
  --generate-hashes --universal --python-version 3.11 --no-emit-index-url \
  --custom-compile-command "bash release/lock.sh" --output-file release/requirements.lock "$@"
