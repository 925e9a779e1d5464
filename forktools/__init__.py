"""The rules of a fork: its commits, branches, tags and release lines."""

import os

# GitPython looks for git when it is imported, and fails there without it; we say so when it is needed.
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
