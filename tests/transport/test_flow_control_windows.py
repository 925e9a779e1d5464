"""Flow control without a socket: what the windows allow is sent, and received bytes are credited in time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
from hpack import Encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from kine.transport.base import Pieces
from kine.transport.http2.frames import HEAD, PREFACE
from kine.transport.http2.receive_flow import STREAM_WINDOW
from kine.transport.http2.stream import Http2Stream
from tests.transport.test_fuzz import FIELDS, Echo, frame

DATA, HEADERS, SETTINGS, WINDOW_UPDATE = 0, 1, 4, 8
CONNECTION = 65_535  # what a peer may be sent at first, over all streams
LARGEST = 16_384
BODY = bytes(range(256)) * 400  # 100 KiB


class Client:
    """The peer of a connection whose application answers as the test says."""

    def __init__(self, initial_window: int = 1 << 20) -> None:
        self.echo = Echo()
        self._encoder = Encoder()
        settings = (4).to_bytes(2, "big") + initial_window.to_bytes(4, "big")
        self.echo.receive(PREFACE + frame(SETTINGS, 0, 0, settings))
        self.credit = {0: CONNECTION, 1: STREAM_WINDOW}
        self.take()

    def take(self) -> list[tuple[int, int, int, bytes]]:
        """The frames received so far: kind, flags, stream and payload."""
        found = list(frames_of(bytes(self.echo.sent)))
        self.echo.sent.clear()
        for kind, _, stream, payload in found:
            if kind == WINDOW_UPDATE:
                self.credit[stream] = self.credit.get(stream, STREAM_WINDOW) + int.from_bytes(payload, "big")
        return found

    def ask(self, stream: int = 1) -> None:
        self.echo.receive(frame(HEADERS, 4, stream, self._encoder.encode(FIELDS)))

    def send(self, size: int, stream: int = 1, *, end: bool = False) -> None:
        for start, stop in pairwise([*range(0, size, LARGEST), size]):
            last = end and stop == size
            self.echo.receive(frame(DATA, 1 if last else 0, stream, bytes(stop - start)))
        self.credit[0] -= size
        self.credit[stream] = self.credit.get(stream, STREAM_WINDOW) - size

    def allow(self, stream: int, size: int) -> None:
        self.echo.receive(frame(WINDOW_UPDATE, 0, stream, size.to_bytes(4, "big")))

    def stream(self, number: int = 1) -> Http2Stream:
        return self.echo.connection.streams[number]


def frames_of(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    position = 0
    while position < len(data):
        high, low, kind, flags, stream = HEAD.unpack_from(data, position)
        end = position + 9 + (high << 8 | low)
        yield kind, flags, stream, data[position + 9 : end]
        position = end


def bodies(found: list[tuple[int, int, int, bytes]]) -> bytes:
    return b"".join(payload for kind, _, _, payload in found if kind == DATA)


# ---- sending


def answer(client: Client, form: str) -> bytes:
    """Starts a response of 100 KiB in one form; returns the bytes of its messages."""
    out, stream = client.echo.connection.out, client.stream()
    if form == "pieces":
        out.respond(stream, b"\x88", Pieces([BODY[:50_000], BODY[50_000:]]), b"\x88")
    else:
        out.respond(stream, b"\x88", BODY, b"\x88")
    return b"\0" + len(BODY).to_bytes(4, "big") + BODY


@pytest.mark.parametrize("form", ["pieces", "bytes"])
@pytest.mark.parametrize(
    ("initial", "first", "updates"),
    [
        (1 << 20, CONNECTION, [(0, 1 << 20)]),  # the connection's window is the limit
        (30_000, 30_000, [(1, 1 << 20), (0, 1 << 20)]),  # the stream, then the connection
        (30_000, 30_000, [(0, 1 << 20), (1, 1 << 20)]),
        (0, 0, [(1, 10_000), (1, 1 << 20), (0, 1 << 20)]),
    ],
    ids=["connection", "stream and connection", "connection and stream", "nothing at first"],
)
def test_an_answer_goes_on_as_the_windows_grow(
    form: str, initial: int, first: int, updates: list[tuple[int, int]]
) -> None:
    client = Client(initial)
    client.ask()
    client.take()
    due = answer(client, form)
    client.echo.receive(b"")
    got = client.take()
    assert bodies(got) == due[:first]
    assert (HEADERS, 5, 1, b"\x88") not in got, "not at its end yet"
    for stream, size in updates:
        client.allow(stream, size)
        got += client.take()
    assert bodies(got) == due
    assert got.count((HEADERS, 5, 1, b"\x88")) == 1
    assert client.echo.connection.streams == {}


# ---- receiving


@pytest.mark.parametrize("size", [LARGEST, STREAM_WINDOW // 2, STREAM_WINDOW])
def test_half_a_window_that_was_taken_is_given_back_at_once(size: int) -> None:
    client = Client()
    client.ask()
    client.send(size)
    client.take()
    assert client.credit[1] > STREAM_WINDOW // 2, "or all of a half that is owed"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 30_000), min_size=1, max_size=60))
def test_a_peer_can_always_send_half_a_window_of_what_was_taken(sizes: list[int]) -> None:
    client = Client()
    whole = client.credit[0]
    client.ask()
    for size in sizes:
        client.send(size)
        client.take()
        assert STREAM_WINDOW // 2 < client.credit[1] <= STREAM_WINDOW
        assert whole // 2 < client.credit[0] <= whole


def test_what_a_stream_held_at_its_end_is_the_connections_again() -> None:
    client = Client()
    client.ask()
    window = client.echo.connection._intake.window
    release, client.echo.connection.release = client.echo.connection.release, lambda stream, count: None
    client.send(50_000)
    assert window.held == 50_000
    client.echo.receive(frame(3, 0, 1, bytes(4)))
    assert (window.held, window.size + window.owed) == (0, window.limit)
    client.echo.connection.release = release
