"""Worker processes: they take one task after the other, even after a failed one."""

from dataclasses import replace

import pytest

from bench.driver_cost import running_echo_server
from bench.endpoint import parse
from bench.worker_messages import Task
from bench.worker_processes import WorkerError, Workers


def tasks(scenario, url):
    one = Task(scenario, parse(f"echo={url}"), b"/registry/t/", b"/registry/d/", workers=2, clients=4)
    one = replace(one, connections=2, warmup=0.0, duration=1.0, keys=10, size=10)
    return [replace(one, worker=number) for number in range(2)]


def test_a_failed_run_leaves_nothing_for_the_next():
    with running_echo_server() as (url, _), Workers(2) as workers:
        with pytest.raises(WorkerError):
            workers.run(tasks("fill", "http://127.0.0.1:9"))

        outcomes = workers.run(tasks("create", url))

    assert all(outcome.completed for outcome in outcomes)
