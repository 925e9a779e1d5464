"""`--workers N`: several server processes that share one address and one database.

A parent listens, and passes each connection on to the worker with the fewest; it serves nothing itself. A
worker is the same command once more, a whole server that stands beside the others as an instance on another
machine would. A socket pair joins each to the parent (`channel`), and its end is the sign to stop: so no
worker outlives its parent, however that ends.
"""


class WorkerError(Exception):
    """A worker could not start. `code` is its exit code."""

    def __init__(self, number: int, code: int) -> None:
        super().__init__(f"worker {number} could not start; its last line says why and what to do")
        self.code = code if code > 0 else 1  # else a signal ended it
