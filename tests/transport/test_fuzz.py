"""Random input in random pieces: no exception, the same result, bounded memory."""

from __future__ import annotations

from hpack import Encoder
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kine.transport.base import Limits
from kine.transport.http2.connection import Connection
from kine.transport.http2.frames import HEAD, PREFACE
from kine.transport.http2.hpack import Decoder
from kine.transport.http2.stream import Http2Stream
from tests.fuzz.targets import decode_as_the_library

FIELDS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/test.Echo/Now"),
    ("content-type", "application/grpc"),
]
MAX_LIST = 64 * 1024


class Echo:
    """Responds to each request with its body, and records the calls it receives."""

    def __init__(self) -> None:
        self.connection = Connection(self, Limits())
        self.told: list[tuple[str, int, bytes, bool]] = []
        self.sent = bytearray()

    def request(self, stream: Http2Stream) -> None:
        stream.application = bytearray()
        self.told.append(("request", stream.id, stream.head.path.encode("latin-1"), False))

    def data(self, stream: Http2Stream, data: bytes, ended: bool) -> None:
        stream.application += data
        self.connection.release(stream, len(data))
        self.told.append(("data", stream.id, data, ended))
        if ended:
            self.connection.out.respond(stream, b"\x88", bytes(stream.application), b"\x88")

    def reset(self, stream: Http2Stream) -> None:
        self.told.append(("reset", stream.id, b"", False))

    def drained(self, stream: Http2Stream) -> None: ...

    def receive(self, data: bytes) -> None:
        self.connection.receive(data, 1.0)
        while out := self.connection.out.take():
            self.sent += b"".join(out)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return HEAD.pack(len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream) + payload


BLOCKS = st.one_of(
    st.just(Encoder().encode(FIELDS)),
    st.binary(max_size=60),
    st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5)), max_size=3).map(
        lambda more: Encoder().encode([*FIELDS, *more])
    ),
)
NUMBERS = st.sampled_from([0, 1, 100, 65_535, 2**30, 2**31 - 1]).map(lambda value: value.to_bytes(4, "big"))
PAYLOADS = st.one_of(st.binary(max_size=40), NUMBERS, BLOCKS, st.just(bytes(8)), st.just(bytes(16_384)))
FRAMES = st.builds(
    frame, st.integers(0, 11), st.integers(0, 255), st.sampled_from([0, 1, 1, 3, 5, 2, 9]), PAYLOADS
)
CALLS = st.builds(
    lambda stream, block, body: frame(1, 4, stream, block) + frame(0, 1, stream, body),
    st.sampled_from([1, 3, 5, 7, 9]),
    BLOCKS,
    st.binary(max_size=100),
)
CONVERSATIONS = st.lists(st.one_of(CALLS, FRAMES), max_size=12).map(
    lambda sent: PREFACE + frame(4, 0, 0, b"") + b"".join(sent)
)


@settings(max_examples=300, deadline=None)
@given(CONVERSATIONS, st.lists(st.integers(1, 40), min_size=1, max_size=20))
def test_pieces_make_no_difference(sent: bytes, sizes: list[int]) -> None:
    whole, pieces = Echo(), Echo()
    whole.receive(sent)
    position = turn = 0
    while position < len(sent):
        # Large bodies in few pieces, or the test would take its time.
        size = sizes[turn % len(sizes)] * (1 + len(sent) // 4096)
        pieces.receive(sent[position : position + size])
        position += size
        turn += 1

    assert pieces.told == whole.told or _joined(pieces.told) == _joined(whole.told)
    assert pieces.sent == whole.sent
    assert pieces.connection.closed == whole.connection.closed


def _joined(told: list[tuple[str, int, bytes, bool]]) -> list[tuple[str, int, bytes, bool]]:
    return [event for event in told if event[0] != "data"]


@settings(max_examples=300, deadline=None)
@given(CONVERSATIONS, st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), max_size=8))
def test_mutated_conversation_raises_nothing_and_keeps_little(
    sent: bytes, changes: list[tuple[int, int]]
) -> None:
    changed = bytearray(sent)
    for position, value in changes:
        changed[position % len(changed)] = value
    echo = Echo()

    echo.receive(bytes(changed))

    connection = echo.connection
    assert len(connection._buffer) <= 9 + 16_384
    assert (
        sum(stream.receive.held for stream in connection.streams.values()) <= connection._intake.window.held
    )
    window = connection._intake.window
    assert window.size + window.held + window.owed == window.limit


NAMES = st.sampled_from(["grpc-timeout", "content-type", ":path", "x", "y" * 40, "te"])
LISTS = st.lists(st.tuples(NAMES, st.text(st.characters(max_codepoint=255), max_size=60)), max_size=8)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(LISTS, st.booleans(), st.integers(0, 4096)), max_size=8))
def test_headers_are_the_librarys(sequence: list[tuple[list[tuple[str, str]], bool, int]]) -> None:
    encoder, ours = Encoder(), Decoder(MAX_LIST)
    for fields, huffman, size in sequence:
        if size % 7 == 0:
            encoder.header_table_size = size
        raw = [(name.encode(), value.encode()) for name, value in fields]
        for _ in range(2):  # the second time from the cache
            assert ours.decode(encoder.encode(raw, huffman=huffman)) == tuple(raw)


@settings(max_examples=500, deadline=None)
@given(st.lists(st.binary(max_size=30), min_size=1, max_size=4))
@example([b"\x3f\xe1\x1f\x82", b"\x20\x82"])
def test_any_block_is_judged_as_by_the_library(blocks: list[bytes]) -> None:
    decode_as_the_library(blocks)
