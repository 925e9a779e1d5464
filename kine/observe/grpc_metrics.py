"""gRPC server metrics with go-grpc-prometheus's names: counts and latencies, for every transport."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from kine.observe.metrics import Histogram, registry
from kine.transport.base import Code, Pieces, RpcError, Streaming, Unary

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator

    from kine.transport.base import Answer, Call, MessageStream, Routes, StreamHandler, UnaryHandler

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # Prometheus' own default
CODES = {code: "".join(part.capitalize() for part in code.name.split("_")) for code in Code}
CODES |= {Code.OK: "OK", Code.CANCELLED: "Canceled"}  # as Go's codes.Code spells them

# Streaming methods whose client sends one message; all others are bidirectional.
SERVER_STREAMS = frozenset(
    {
        "/etcdserverpb.KV/RangeStream",
        "/etcdserverpb.Maintenance/Snapshot",
        "/grpc.health.v1.Health/Watch",
        "/v3electionpb.Election/Observe",
    }
)


class MethodMetrics:
    """Counters of one method. They are only used on the event loop, so they need no lock."""

    __slots__ = ("codes", "kind", "name", "running", "service", "times")

    def __init__(self, path: str, kind: str) -> None:
        _, self.service, self.name = path.split("/")
        self.kind = kind
        self.running = 0  # calls in progress; a call answered without waiting is never counted here
        self.codes = [0] * len(Code)
        self.times = Histogram(BUCKETS)

    def ended(self, code: Code, seconds: float) -> None:
        self.codes[code] += 1
        self.times.observe(seconds)


class _Calls:
    def __init__(self) -> None:
        self.methods: dict[str, MethodMetrics] = {}

    def method(self, path: str, kind: str) -> MethodMetrics:
        return self.methods.setdefault(path, MethodMetrics(path, kind))

    def collect(self) -> Iterator[Metric]:
        labels = ["grpc_type", "grpc_service", "grpc_method"]
        started = CounterMetricFamily(
            "grpc_server_started_total", "Total number of RPCs started on the server.", labels=labels
        )
        handled = CounterMetricFamily(
            "grpc_server_handled_total",
            "Total number of RPCs completed on the server, regardless of success or failure.",
            labels=[*labels, "grpc_code"],
        )
        times = HistogramMetricFamily(
            "grpc_server_handling_seconds",
            "Histogram of response latency (seconds) of gRPC that had been application-level handled "
            "by the server.",
            labels=labels,
        )
        for method in self.methods.values():
            key = [method.kind, method.service, method.name]
            started.add_metric(key, sum(method.codes) + method.running)
            for code, count in enumerate(method.codes):
                if count or code == Code.OK:
                    handled.add_metric([*key, CODES[Code(code)]], count)
            times.add_metric(key, method.times.buckets(), method.times.total)
        yield started
        yield handled
        yield times


_calls = _Calls()
registry.register(_calls)


def observed(routes: Routes) -> Routes:
    """The same routes with metrics. Adds about 0.3 microseconds to a call answered without waiting."""
    shown: dict[str, Unary | Streaming] = {}
    for path, route in routes.items():
        if isinstance(route, Unary):
            shown[path] = Unary(_unary(route.handler, _calls.method(path, "unary")))
        else:
            kind = "server_stream" if path in SERVER_STREAMS else "bidi_stream"
            shown[path] = Streaming(_streaming(route.handler, _calls.method(path, kind)))
    return shown


def _unary(handler: UnaryHandler, method: MethodMetrics) -> UnaryHandler:
    codes, times = method.codes, method.times
    bounds, counts = times.bounds, times.counts

    def call(request: bytes, call: Call) -> Answer | Awaitable[Answer]:
        begun = perf_counter()
        try:
            answer = handler(request, call)
        except BaseException as error:
            method.ended(code_of(error), perf_counter() - begun)
            raise
        if answer.__class__ is bytes:
            # `method.ended` inlined: saves three calls, a third of the cost of these metrics.
            seconds = perf_counter() - begun
            codes[0] += 1
            counts[bisect_left(bounds, seconds)] += 1
            times.total += seconds
            return answer
        if isinstance(answer, bytes | Pieces):
            method.ended(Code.OK, perf_counter() - begun)
            return answer
        if isinstance(answer, asyncio.Future):  # a done callback costs 2 us less than a coroutine
            method.running += 1
            answer.add_done_callback(partial(_ended, method, begun))
            return answer
        return _awaited(answer, method, begun)

    return call


def _ended(method: MethodMetrics, begun: float, answer: asyncio.Future[bytes]) -> None:
    method.running -= 1
    if answer.cancelled():
        method.ended(Code.CANCELLED, perf_counter() - begun)
    elif (error := answer.exception()) is not None:
        method.ended(code_of(error), perf_counter() - begun)
    else:
        method.ended(Code.OK, perf_counter() - begun)


async def _awaited(answer: Awaitable[Answer], method: MethodMetrics, begun: float) -> Answer:
    method.running += 1
    try:
        result = await answer
    except BaseException as error:
        method.running -= 1
        method.ended(code_of(error), perf_counter() - begun)
        raise
    method.running -= 1
    times = method.times
    seconds = perf_counter() - begun
    method.codes[0] += 1
    times.counts[bisect_left(times.bounds, seconds)] += 1
    times.total += seconds
    return result


def _streaming(handler: StreamHandler, method: MethodMetrics) -> StreamHandler:
    async def call(stream: MessageStream, call: Call) -> None:
        begun = perf_counter()
        method.running += 1
        code = Code.OK
        try:
            await handler(stream, call)
        except BaseException as error:
            code = code_of(error)
            raise
        finally:
            method.running -= 1
            method.ended(code, perf_counter() - begun)

    return call


def code_of(error: BaseException) -> Code:
    """The status that a transport gives to a call that ended with this error."""
    if isinstance(error, RpcError):
        return error.code
    return Code.CANCELLED if isinstance(error, asyncio.CancelledError) else Code.UNKNOWN
