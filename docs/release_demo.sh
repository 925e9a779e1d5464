#!/usr/bin/env bash
# Cuts a release line on a repository made for it; docs/release.md shows the output. Touches nothing else.
set -uo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export GIT_AUTHOR_NAME=Ada GIT_AUTHOR_EMAIL=ada@example.com GIT_COMMITTER_NAME=Ada GIT_COMMITTER_EMAIL=ada@example.com
export GIT_AUTHOR_DATE='2026-01-01T00:00:00Z' GIT_COMMITTER_DATE='2026-01-01T00:00:00Z'
export PATH="$here/.venv/bin:$PATH" COLUMNS=100
unset GITHUB_ACTIONS GITHUB_EVENT_PATH

quiet() { "$@" >/dev/null 2>&1; }
commit() { # FILE LINE SUBJECT
  mkdir -p "$(dirname "$1")"; echo "$2" >> "$1"; git add --all; quiet git commit -m "$3"
}
show() { echo "\$ $*"; "$@" 2>&1; echo "[exit $?]"; echo; }

quiet git init --initial-branch=master "$work/kine"; cd "$work/kine" || exit 2
commit pkg/server.go 'package server' 'Serve'
commit README.md '# kine' 'Say what it is'
git tag v1.0.0
quiet git switch --create release/vcluster/v1.0.0
commit pkg/auth.go 'package auth' 'feat(fork): log in with IAM'
commit pkg/server.go '// with IAM' 'fix(fork): ask for the token in time'
commit .github/workflows/a.yml 'name: a' 'ci(fork): check commits'
quiet git switch master
commit pkg/server.go '// faster' 'Serve faster'
git tag v1.1.0

echo '## A line is cut'; echo
show forktools replay inventory v1.0.0
show forktools replay plan --from v1.0.0 --to v1.1.0
show forktools replay apply --from v1.0.0 --to v1.1.0
worktree=$(git worktree list --porcelain | sed -n 's/^worktree //p' | tail -1)
echo '## The conflict is settled, and the replay goes on'; echo
( cd "$worktree" && printf 'package server\n// faster\n// with IAM\n' > pkg/server.go && git add pkg/server.go )
show forktools replay apply --continue
show forktools replay verify --from v1.0.0 --to v1.1.0

echo '## Pull requests are judged'; echo
judge() { # BASE FILE SUBJECT
  quiet git switch --create pr "$1"; commit "$2" change "$3"
  show forktools check-pr --base "$1"
  quiet git switch "$1"; quiet git branch -D pr
}
judge master pkg/x.go 'Fix a leak'
judge master docs/x.md 'docs(fork): tell of lines'
judge master pkg/x.go 'feat(fork): a product change on master'
judge master pkg/x.go 'ci(fork): tooling that reaches into the product'
judge release/vcluster/v1.1.0 pkg/x.go 'fix(fork): only ours'
judge release/vcluster/v1.1.0 pkg/x.go 'fix: without the scope'
judge release/vcluster/v1.1.0 pkg/x.go 'Changed some things'

echo '## The tag is gated'; echo
show forktools next-tag --line v1.1.0
git tag v1.1.0.vcluster.0 release/vcluster/v1.1.0
show forktools check-tag v1.1.0.vcluster.0
show forktools check-tag v1.1.0.vcluster.5
show forktools check-tag v1.1.0-vcluster.1
