"""The rules of a fork: its commits, branches, tags and release lines."""

import os

# GitPython looks for git on import and fails without it; forktools reports that when git is first needed.
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
