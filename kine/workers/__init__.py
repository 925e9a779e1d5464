"""`--workers N`: several server processes that share one address and one database.

A parent listens, and passes each accepted connection to the worker with the fewest; it serves nothing itself.
Each worker runs the same command as a complete server, independent of the others like an instance on another
machine. A socket pair connects each worker to the parent (see `parent_channel`). A worker stops when its
channel is closed, so no worker outlives its parent, however the parent ends.
"""


class WorkerError(Exception):
    """A worker could not start. `code` is its exit code."""

    def __init__(self, number: int, code: int) -> None:
        super().__init__(f"worker {number} could not start; its last line says why and what to do")
        self.code = code if code > 0 else 1  # negative: a signal ended it
