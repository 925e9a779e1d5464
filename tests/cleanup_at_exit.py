"""Registry of what outlives a single test: servers and temporary directories that end with the run.

pytest-xdist gives a worker ten seconds from its last message to its exit, which is too short to stop many
servers on a busy machine: what is left to `atexit` alone would stay. `tests/conftest.py` therefore closes
these before that.
"""

from __future__ import annotations

import atexit
from contextlib import ExitStack

ENDINGS = ExitStack()
atexit.register(ENDINGS.close)
