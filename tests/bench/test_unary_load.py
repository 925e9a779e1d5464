"""The load generator, against a server that answers at once and can be stalled."""

import os
import signal
import threading
from contextlib import contextmanager
from time import monotonic, sleep

import pytest

from bench.driver_cost import running_echo_server
from bench.endpoint import parse
from bench.epoll_loop import Loop
from bench.operations import Create, values
from bench.unary_load import Load

STALL = 0.4


@pytest.fixture
def echo():
    with running_echo_server() as (url, pid):
        yield parse(f"echo={url}"), pid


def load(endpoint, clients, rate=0.0, limit=10.0):
    loop = Loop()
    links = loop.open(endpoint, min(clients, 4))
    return Load(
        loop, links, Create(b"/registry/t/", range(1 << 30), values(100, 1)), clients, rate=rate, limit=limit
    )


@contextmanager
def stall(pid):
    """Stops the server's process for STALL seconds."""
    os.kill(pid, signal.SIGSTOP)
    go_on = threading.Timer(STALL, os.kill, (pid, signal.SIGCONT))
    go_on.start()
    yield
    go_on.join()


def test_closed_loop_keeps_one_request_a_client_in_flight(echo):
    run = load(echo[0], 8)

    run.run(monotonic(), 0.1, 0.8)

    assert run.completed > 8  # each slot continues after its first request
    assert not run.errors
    assert len(run.samples[0]) - run.completed <= 8


def test_open_loop_sends_at_the_rate(echo):
    run = load(echo[0], 8, rate=500.0)

    run.run(monotonic(), 0.1, 1.0)

    assert 490 <= len(run.samples[0]) + run.unstarted <= 510


def test_open_loop_counts_a_stall_for_every_request_it_held_up(echo):
    run = load(echo[0], 8, rate=500.0)
    start = monotonic()

    with stall(echo[1]):
        run.run(start, 0.0, 1.0)

    # A request due in the first half of the stall has waited for the other half, however late it was sent.
    slow = sum(latency > STALL / 2 for latency in run.samples[0])
    assert slow + run.unstarted >= 500.0 * STALL / 2 - 1


def test_a_request_without_an_answer_ends_at_its_limit_and_is_an_error(echo):
    run = load(echo[0], 4, limit=0.1)

    with stall(echo[1]):
        run.run(monotonic(), 0.0, 0.4)

    assert run.errors["status 4: no answer within 0.1 s"] >= 4


def test_a_lost_connection_is_an_error_and_the_rest_goes_on(echo):
    run = load(echo[0], 4)
    completed = []

    def lose():
        while not run.completed:
            sleep(0.01)
        completed.append(run.completed)
        run.loop.links[0]._sock.shutdown(2)

    losing = threading.Thread(target=lose)
    losing.start()

    run.run(monotonic(), 0.0, 1.5)
    losing.join()

    assert sum(run.errors.values()) >= 1
    assert all("status 14" in error for error in run.errors)
    assert run.slots[0].link.reconnects == 1
    assert run.completed > completed[0] + 4


def test_latencies_of_one_client_fill_the_time(echo):
    run = load(echo[0], 1)
    start = monotonic()

    run.run(start, 0.1, 1.0)

    # The requests do not overlap: if counted twice, their sum would exceed the duration of the run.
    assert run.samples[0]
    assert 0 < sum(run.samples[0]) <= run.last_end - start
