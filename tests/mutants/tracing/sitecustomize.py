"""Line tracer that every Python process of a recorded run imports first: it records the lines of each test.

Pytest writes the name of the current test to a file, KINE_MUTANTS_TEST. Each process watches it, and
acknowledges it (KINE_MUTANTS_HEARD). The executed lines go to a file per process in KINE_MUTANTS_DATA, at
each change of the test and periodically, since servers are killed.
"""

import atexit
import os
import threading
import time
from contextlib import suppress

_SAVED_EVERY = 0.5  # seconds


def _trace() -> None:
    from coverage import Coverage

    now = os.environ["KINE_MUTANTS_TEST"]
    heard = os.path.join(os.environ["KINE_MUTANTS_HEARD"], str(os.getpid()))
    root = os.environ["KINE_MUTANTS_ROOT"]
    coverage = Coverage(
        data_file=os.path.join(os.environ["KINE_MUTANTS_DATA"], "data"),
        data_suffix=True,
        config_file=False,
        source=[os.path.join(root, "kine"), os.path.join(root, "forktools")],
        messages=False,
    )
    coverage._warn_no_data = False
    coverage.start()
    lock = threading.Lock()

    def look() -> None:
        test, saved = None, time.monotonic()
        while True:
            with suppress(OSError), lock:
                with open(now) as file:
                    found = file.read()
                if found != test:
                    test = found
                    coverage.switch_context(test)
                    coverage.save()
                    saved = time.monotonic()
                    with open(heard, "w") as file:
                        file.write(test)
                elif time.monotonic() > saved + _SAVED_EVERY:
                    coverage.save()
                    saved = time.monotonic()
            time.sleep(0.004)

    def end() -> None:
        with lock:
            coverage.stop()
            coverage.save()
        with suppress(OSError):
            os.unlink(heard)

    with suppress(OSError), open(now) as file:
        coverage.switch_context(file.read())
    atexit.register(end)
    threading.Thread(target=look, daemon=True, name="trace").start()


if "KINE_MUTANTS_DATA" in os.environ:
    _trace()
