"""No server outlives the run that started it, not even a killed run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUN = """
import subprocess, sys, time
from tests.process_reaper import end_with_this_process
server = subprocess.Popen(["sleep", "600"], start_new_session=sys.argv[1] == "own")
end_with_this_process(server.pid)
print(server.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("group", ["own", "shared"])
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_run_leaves_no_server(group, sign):
    with subprocess.Popen([sys.executable, "-c", RUN, group], stdout=subprocess.PIPE, cwd=ROOT) as run:
        server = int(run.stdout.readline())
        run.send_signal(sign)

    for _ in range(600):
        if not Path(f"/proc/{server}").exists() or "(sleep) Z" in Path(f"/proc/{server}/stat").read_text():
            return
        time.sleep(0.1)
    os.kill(server, signal.SIGKILL)
    pytest.fail("the server runs on")
