"""What outlives a test, servers and directories, ends with the run.

pytest-xdist gives a worker ten seconds from its last word to its exit, too few for many servers on a busy
machine: what is left to `atexit` alone then stays. `tests/conftest.py` closes these before that.
"""

from __future__ import annotations

import atexit
from contextlib import ExitStack

ENDINGS = ExitStack()
atexit.register(ENDINGS.close)
