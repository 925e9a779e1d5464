"""Sender of a corpus's requests as they are, which reports how each call ended."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc

from kine.proto import rpc_pb2 as pb
from tests.hostile.hostile_messages import METHODS, Sent

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT = 20.0  # seconds
STREAMING = {method.path for method in METHODS if method.streaming}
WATCH = "/etcdserverpb.Watch/Watch"
LAST_WATCH = 777_777
# Sent after all others of a stream: its response shows that they have all been answered.
LAST = pb.WatchRequest(
    create_request=pb.WatchCreateRequest(key=b"\xff\xff the last", watch_id=LAST_WATCH)
).SerializeToString()

PYTHON = re.compile(
    r"Traceback|\w+(Error|Exception)\b|object at 0x|NoneType|\bb'|<class|\.py\b"
    r"|psycopg|pymysql|sqlite3|sqlalchemy"
)


class Ended(NamedTuple):
    """How a call ended: a status, its text, and the responses before it."""

    code: str
    text: str
    answers: tuple[bytes, ...] = ()


def send(channel: grpc.Channel, sent: Sent) -> Ended:
    try:
        if sent.method in STREAMING:
            return Ended("OK", "", tuple(_answers(channel, sent)))
        return Ended("OK", "", (channel.unary_unary(sent.method)(sent.messages[0], timeout=TIMEOUT),))
    except grpc.RpcError as error:
        call: Any = error
        return Ended(call.code().name, call.details())


def _answers(channel: grpc.Channel, sent: Sent) -> Iterator[bytes]:
    watching = sent.method == WATCH
    requests = [*sent.messages, LAST] if watching else list(sent.messages)
    call = channel.stream_stream(sent.method)(iter(requests), timeout=TIMEOUT)
    try:
        for answer in call:
            yield answer
            if watching:
                told = pb.WatchResponse.FromString(answer)
                if told.created and told.watch_id == LAST_WATCH:
                    return
            elif sent.method == "/grpc.health.v1.Health/Watch":
                return
    finally:
        call.cancel()


def complaint(ended: Ended) -> str:
    """Why no response may look like this; empty if it is fit for a client."""
    if PYTHON.search(ended.text):
        return "a text of the program's inside"
    if ended.code == "UNKNOWN":
        return "a fault"
    if ended.code == "INTERNAL" and not ended.text.startswith("grpc: "):
        return "a fault"
    return "no answer" if ended.code == "DEADLINE_EXCEEDED" else ""
