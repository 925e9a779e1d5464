#!/usr/bin/env bash
# Writes the lock files that the image and the executable are built from: every version, with its hashes.
set -euo pipefail
cd "$(dirname "$0")/.."
compile=(uv pip compile --quiet --generate-hashes --universal --python-version 3.11 --no-emit-index-url
  --custom-compile-command "bash release/lock.sh")
"${compile[@]}" pyproject.toml --extra kerberos --extra nats-embedded --output-file release/requirements.lock "$@"
"${compile[@]}" release/build-requirements.in --output-file release/build-requirements.lock "$@"
"${compile[@]}" forktools/pyproject.toml --constraint release/requirements.lock --output-file release/forktools.lock "$@"
