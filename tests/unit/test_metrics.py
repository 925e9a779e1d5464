"""Metrics: names and labels dashboards rely on, correct figures, and the cost of observing a call."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kine.observe import metrics
from kine.observe.grpc_metrics import observed
from kine.observe.metrics import SQL_BUCKETS, Histogram, observe_sql
from kine.transport.base import Call, Code, RpcError, Streaming, Unary

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from types import FrameType

    from kine.transport.base import MessageStream, Routes

CALL = Call(method="/etcdserverpb.KV/Range")


@pytest.fixture(autouse=True)
def _readings_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics._readings, "sources", {})


async def scrape() -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    body, _ = await metrics.exposition()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


async def figure(name: str, /, **labels: str) -> float:
    return (await scrape()).get((name, frozenset(labels.items())), -1)


def unary(routes: Routes, path: str) -> Unary:
    route = routes[path]
    assert isinstance(route, Unary)
    return route


async def test_counters_of_go_kine_are_there_from_the_start() -> None:
    shown = await scrape()

    assert {
        ("kine_compact_total", frozenset({("result", "success")})),
        ("kine_compact_total", frozenset({("result", "error")})),
        ("kine_insert_errors_total", frozenset({("retriable", "true")})),
        ("kine_insert_errors_total", frozenset({("retriable", "false")})),
        ("kine_gap_fill_total", frozenset({("result", "filled")})),
        ("kine_gap_fill_total", frozenset({("result", "failed")})),
        ("kine_gap_fill_total", frozenset({("result", "skipped")})),
    } <= shown.keys()


async def test_process_and_python_metrics_are_there() -> None:
    names = {name for name, _ in await scrape()}

    assert {
        "process_cpu_seconds_total",
        "process_open_fds",
        "python_info",
        "python_gc_collections_total",
    } <= names


async def test_counter_counts() -> None:
    before = await figure("kine_compact_total", result="success")

    metrics.compactions.inc("success")

    assert await figure("kine_compact_total", result="success") == before + 1


def test_counter_refuses_a_label_value_it_does_not_know() -> None:
    with pytest.raises(KeyError):
        metrics.gap_fills.inc("ignored")


async def test_sql_is_counted_and_timed_by_name_and_error_code() -> None:
    observe_sql("append", "23505", 0.003)

    labels = {"name": "append", "error_code": "23505"}
    shown = await scrape()
    assert shown["kine_sql_total", frozenset(labels.items())] == 1
    assert shown["kine_sql_time_seconds_sum", frozenset(labels.items())] == 0.003
    assert shown["kine_sql_time_seconds_bucket", frozenset({**labels, "le": "0.002"}.items())] == 0
    assert shown["kine_sql_time_seconds_bucket", frozenset({**labels, "le": "0.004"}.items())] == 1


def test_sql_buckets_are_fourteen_from_1_ms_doubling() -> None:
    assert len(SQL_BUCKETS) == 14
    assert (SQL_BUCKETS[0], SQL_BUCKETS[-1]) == (0.001, 8.192)


async def test_sql_observed_from_threads_is_counted_to_the_last() -> None:
    def observe() -> None:
        for _ in range(5000):
            observe_sql("threads", "", 0.001)

    threads = [threading.Thread(target=observe) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert await figure("kine_sql_total", name="threads", error_code="") == 20_000


def test_histogram_counts_a_bound_into_its_own_bucket() -> None:
    histogram = Histogram((1.0, 2.0))

    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.observe(value)

    assert histogram.buckets() == [("1.0", 2), ("2.0", 3), ("+Inf", 4)]
    assert (histogram.count, histogram.total) == (4, 12.0)


async def test_write_batches_are_shown() -> None:
    before = await figure("kine_write_batch_size_count")

    metrics.write_batch_size.observe(16)

    assert await figure("kine_write_batch_size_count") == before + 1


async def test_reading_is_asked_for_at_each_scrape() -> None:
    figures = iter([7, 8])
    metrics.register_gauge("kine_revision", lambda: next(figures))

    assert await figure("kine_revision") == 7
    assert await figure("kine_revision") == 8


async def test_reading_that_waits_is_awaited() -> None:
    async def size() -> float:
        return 4096

    metrics.register_gauge("kine_db_size_bytes", size)

    assert await figure("kine_db_size_bytes") == 4096


async def test_reading_that_fails_keeps_its_last_figure_and_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metrics, "READING_TIMEOUT", 0.01)
    answers = iter([11])

    async def fails_then_hangs() -> float:
        for answer in answers:
            return answer
        return await asyncio.get_running_loop().create_future()

    metrics.register_gauge("kine_db_size_bytes", fails_then_hangs)
    metrics.register_gauge("kine_keys", lambda: 3)
    await scrape()

    shown = await scrape()

    assert shown["kine_db_size_bytes", frozenset()] == 11
    assert shown["kine_keys", frozenset()] == 3


def test_reading_of_an_unknown_name_is_refused() -> None:
    with pytest.raises(KeyError):
        metrics.register_gauge("kine_revisoin", lambda: 1)


async def test_answer_at_hand_is_passed_on_at_once_and_counted() -> None:
    path = "/etcdserverpb.KV/Now"
    route = unary(observed({path: Unary(lambda request, call: request + b"!")}), path)

    assert route.handler(b"hi", CALL) == b"hi!"

    labels = {"grpc_type": "unary", "grpc_service": "etcdserverpb.KV", "grpc_method": "Now"}
    assert await figure("grpc_server_started_total", **labels) == 1
    assert await figure("grpc_server_handled_total", **labels, grpc_code="OK") == 1
    assert await figure("grpc_server_handling_seconds_count", **labels) == 1


async def test_answer_waited_for_is_started_then_handled() -> None:
    path = "/etcdserverpb.KV/Later"
    gate = asyncio.Event()

    async def handler(request: bytes, call: Call) -> bytes:
        await gate.wait()
        return request

    pending = asyncio.ensure_future(_awaited(observed({path: Unary(handler)}), path))
    await asyncio.sleep(0)
    labels = {"grpc_type": "unary", "grpc_service": "etcdserverpb.KV", "grpc_method": "Later"}
    assert await figure("grpc_server_started_total", **labels) == 1
    assert await figure("grpc_server_handled_total", **labels, grpc_code="OK") == 0

    gate.set()
    await pending

    assert await figure("grpc_server_started_total", **labels) == 1
    assert await figure("grpc_server_handled_total", **labels, grpc_code="OK") == 1


async def _awaited(routes: Routes, path: str) -> bytes:
    answer = unary(routes, path).handler(b"", CALL)
    assert not isinstance(answer, bytes)
    return await answer


@pytest.mark.parametrize(
    ("method", "error", "code"),
    [
        ("Compacted", RpcError(Code.OUT_OF_RANGE, "compacted"), "OutOfRange"),
        ("Bug", ZeroDivisionError(), "Unknown"),
    ],
)
async def test_failed_call_is_counted_by_its_code(method: str, error: Exception, code: str) -> None:
    path = f"/etcdserverpb.KV/{method}"

    def handler(request: bytes, call: Call) -> bytes:
        raise error

    with pytest.raises(type(error)):
        unary(observed({path: Unary(handler)}), path).handler(b"", CALL)

    labels = {"grpc_type": "unary", "grpc_service": "etcdserverpb.KV", "grpc_method": method}
    assert await figure("grpc_server_handled_total", **labels, grpc_code=code) == 1


async def test_cancelled_call_is_counted_as_canceled() -> None:
    path = "/etcdserverpb.KV/Cancelled"

    def handler(request: bytes, call: Call) -> Awaitable[bytes]:
        return asyncio.get_running_loop().create_future()

    pending = asyncio.ensure_future(_awaited(observed({path: Unary(handler)}), path))
    await asyncio.sleep(0)
    pending.cancel()
    await asyncio.wait([pending])

    labels = {"grpc_type": "unary", "grpc_service": "etcdserverpb.KV", "grpc_method": "Cancelled"}
    assert await figure("grpc_server_handled_total", **labels, grpc_code="Canceled") == 1


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/etcdserverpb.Watch/Watch", "bidi_stream"), ("/etcdserverpb.Maintenance/Snapshot", "server_stream")],
)
async def test_stream_is_counted_while_open_and_when_ended(path: str, kind: str) -> None:
    class Closed:
        full = False

        async def receive(self) -> bytes | None:
            return None

        def send(self, message: bytes) -> None: ...

        async def drain(self) -> None: ...

    async def handler(stream: MessageStream, call: Call) -> None:
        await stream.receive()

    route = observed({path: Streaming(handler)})[path]
    assert isinstance(route, Streaming)

    await route.handler(Closed(), CALL)

    _, service, method = path.split("/")
    labels = {"grpc_type": kind, "grpc_service": service, "grpc_method": method}
    assert await figure("grpc_server_started_total", **labels) == 1
    assert await figure("grpc_server_handled_total", **labels, grpc_code="OK") == 1


async def test_openmetrics_is_served_to_who_asks() -> None:
    body, content_type = await metrics.exposition("application/openmetrics-text; version=1.0.0")

    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_observing_a_call_answered_at_once_takes_few_calls_more() -> None:
    """0.4 us on a quiet machine; the number of function calls is the same on a busy one."""
    route = unary(
        observed({"/etcdserverpb.KV/Cost": Unary(lambda request, call: request)}), "/etcdserverpb.KV/Cost"
    )
    made: list[str] = []

    def note(frame: FrameType, event: str, arg: object) -> None:
        if event in ("call", "c_call"):
            made.append(arg.__name__ if event == "c_call" else frame.f_code.co_name)  # type: ignore[attr-defined]

    sys.setprofile(note)
    try:
        route.handler(b"", CALL)
    finally:
        sys.setprofile(None)

    assert made == ["call", "perf_counter", "<lambda>", "perf_counter", "bisect_left", "setprofile"]
