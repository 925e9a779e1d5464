"""The load client's HTTP/2, frame by frame."""

import struct

import pytest
from hpack import Encoder

from bench.http2 import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    STREAM_WINDOW,
    WINDOW_UPDATE,
    Connection,
    Messages,
    ProtocolError,
    frame,
)

PATH = "/etcdserverpb.KV/Range"


class Answer:
    """A receiver that stores the data of a stream."""

    passed = None

    def __init__(self):
        self.stream = 0
        self.received = 0
        self.body = b""
        self.status = None
        self.message = ""

    def data(self, payload):
        self.body += payload

    def end(self, status, message):
        self.status, self.message = status, message


def settings(**values):
    numbers = {"table": 1, "streams": 3, "window": 4, "frame": 5}
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", numbers[k], v) for k, v in values.items()))


def connected(**values):
    connection = Connection("127.0.0.1:2379")
    connection.receive(settings(**values))
    connection.out.clear()
    return connection


def sent(connection):
    """The frames waiting to be sent: kind, flags, stream, payload."""
    data, frames = b"".join(connection.out), []
    connection.out.clear()
    while data:
        high, low, kind, flags, stream = struct.unpack_from(">BHBBI", data)
        end = 9 + (high << 16 | low)
        frames.append((kind, flags, stream, data[9:end]))
        data = data[end:]
    return frames


def prefixed(message):
    return b"\0" + struct.pack(">I", len(message)) + message


def answer_frames(stream, message, status="0"):
    encoder = Encoder()
    return (
        frame(HEADERS, END_HEADERS, stream, encoder.encode([(":status", "200")]))
        + frame(DATA, 0, stream, prefixed(message))
        + frame(HEADERS, END_HEADERS | END_STREAM, stream, encoder.encode([("grpc-status", status)]))
    )


def grow(stream, size):
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", size))


def test_opens_with_preface_settings_and_a_wider_connection_window():
    first = b"".join(Connection("a:1").out)

    assert first.startswith(PREFACE)
    assert first[len(PREFACE) + 3] == SETTINGS


def test_acknowledges_settings_and_is_ready():
    connection = Connection("a:1")
    connection.out.clear()

    connection.receive(settings())

    assert connection.ready
    assert sent(connection) == [(SETTINGS, ACK, 0, b"")]


def test_a_call_leaves_as_headers_and_data():
    connection = connected()
    for _ in range(2):  # the second request uses the packed form
        connection.request(Answer(), PATH, b"request")

    frames = sent(connection)

    assert [(kind, flags, stream) for kind, flags, stream, _ in frames] == [
        (HEADERS, END_HEADERS, 1),
        (DATA, END_STREAM, 1),
        (HEADERS, END_HEADERS, 3),
        (DATA, END_STREAM, 3),
    ]
    assert [payload for kind, _, _, payload in frames if kind == DATA] == [prefixed(b"request")] * 2


def test_an_answer_cut_anywhere_is_the_same():
    data = answer_frames(1, b"answer")
    for cut in range(1, len(data)):
        connection, answer = connected(), Answer()
        connection.request(answer, PATH, b"")
        connection.receive(data[:cut])
        connection.receive(data[cut:])

        assert (answer.body, answer.status) == (prefixed(b"answer"), 0)


def test_a_failure_s_message_is_percent_decoded():
    connection, answer = connected(), Answer()
    connection.request(answer, PATH, b"")
    block = Encoder().encode([(":status", "200"), ("grpc-status", "11"), ("grpc-message", "50%25 gone")])

    connection.receive(frame(HEADERS, END_HEADERS | END_STREAM, 1, block))

    assert (answer.status, answer.message) == (11, "50% gone")


def test_headers_in_pieces_and_padded_are_read():
    connection, answer = connected(), Answer()
    connection.request(answer, PATH, b"")
    block = Encoder().encode([(":status", "200"), ("grpc-status", "5")])

    connection.receive(frame(HEADERS, END_STREAM | PADDED, 1, b"\x03" + block[:2] + b"\0\0\0"))
    connection.receive(frame(CONTINUATION, END_HEADERS, 1, block[2:]))

    assert answer.status == 5


def test_padding_of_data_is_dropped():
    connection, answer = connected(), Answer()
    connection.request(answer, PATH, b"")

    connection.receive(frame(DATA, PADDED, 1, b"\x02" + prefixed(b"x") + b"\0\0"))

    assert answer.body == prefixed(b"x")


def test_another_frame_within_a_header_block_is_refused():
    connection = connected()
    connection.request(Answer(), PATH, b"")
    connection.receive(frame(HEADERS, 0, 1, b"\x88"))

    with pytest.raises(ProtocolError):
        connection.receive(frame(PING, 0, 0, b"12345678"))


def test_a_frame_over_our_limit_is_refused():
    with pytest.raises(ProtocolError):
        connected().receive(struct.pack(">BHBBI", 1, 0, DATA, 0, 1))


def test_pings_are_answered():
    connection = connected()

    connection.receive(frame(PING, 0, 0, b"12345678"))

    assert sent(connection) == [(PING, ACK, 0, b"12345678")]


def test_a_request_waits_for_the_stream_s_window():
    connection = connected(window=10)
    connection.request(Answer(), PATH, b"x" * 20)
    first = sent(connection)
    connection.receive(grow(1, 8))
    second = sent(connection)
    connection.receive(grow(1, 100))
    third = sent(connection)

    assert [payload for kind, _, _, payload in first if kind == DATA] == [prefixed(b"x" * 20)[:10]]
    assert second == [(DATA, 0, 1, b"x" * 8)]
    assert third == [(DATA, END_STREAM, 1, b"x" * 7)]


def test_a_request_waits_for_the_connection_s_window():
    connection = connected(window=1 << 20)
    connection.request(Answer(), PATH, b"x" * 100_000)
    first = sum(len(payload) for kind, _, _, payload in sent(connection) if kind == DATA)
    connection.receive(grow(0, 1 << 20))
    second = sum(len(payload) for kind, _, _, payload in sent(connection) if kind == DATA)

    assert (first, second) == (65_535, 100_005 - 65_535)


def test_requests_are_cut_into_frames_of_the_server_s_size():
    connection = connected(window=1 << 20)

    connection.request(Answer(), PATH, b"x" * 40_000)

    assert max(len(payload) for _, _, _, payload in sent(connection)) == 16_384


def test_messages_of_a_stream_stay_in_order_when_they_wait():
    connection, watch = connected(window=10), Answer()
    connection.request(watch, PATH, b"1" * 20, last=False)
    connection.send(1, b"2" * 3)
    connection.send(1, b"3" * 3)
    connection.receive(grow(1, 1000))

    body = b"".join(payload for kind, _, _, payload in sent(connection) if kind == DATA)

    assert body == prefixed(b"1" * 20) + prefixed(b"222") + prefixed(b"333")


def test_a_new_initial_window_applies_to_open_streams():
    connection = connected(window=10)
    connection.request(Answer(), PATH, b"x" * 20)
    sent(connection)

    connection.receive(settings(window=1000))

    assert (DATA, END_STREAM, 1, b"x" * 15) in sent(connection)


def test_windows_are_given_back_at_half():
    connection, answer = connected(), Answer()
    connection.request(answer, PATH, b"")
    sent(connection)
    pieces = STREAM_WINDOW // 2 // 16_384

    for _ in range(pieces):
        connection.receive(frame(DATA, 0, 1, b"x" * 16_384))

    assert sent(connection) == [(WINDOW_UPDATE, 0, 1, struct.pack(">I", pieces * 16_384))]


def test_calls_over_the_server_s_limit_wait_for_a_stream():
    connection = connected(streams=1)
    first, second = Answer(), Answer()
    connection.request(first, PATH, b"one")
    connection.request(second, PATH, b"two")
    before = {stream for _, _, stream, _ in sent(connection)}

    connection.receive(answer_frames(1, b""))

    assert before == {1}
    assert {stream for _, _, stream, _ in sent(connection)} == {3}
    assert second.stream == 3


def test_a_reset_ends_the_call_only():
    connection, first, second = connected(), Answer(), Answer()
    connection.request(first, PATH, b"")
    connection.request(second, PATH, b"")

    connection.receive(frame(RST_STREAM, 0, 1, struct.pack(">I", 0x7)))

    assert (first.status, second.status) == (14, None)


def test_a_cancelled_call_is_reset_and_hears_no_more():
    connection, answer = connected(), Answer()
    connection.request(answer, PATH, b"")
    sent(connection)

    connection.cancel(answer)
    connection.receive(answer_frames(1, b"late"))

    assert sent(connection) == [(RST_STREAM, 0, 1, struct.pack(">I", 0x8))]
    assert (answer.body, answer.status) == (b"", None)


def test_goaway_ends_the_calls_the_server_did_not_take():
    connection, taken, refused = connected(), Answer(), Answer()
    connection.request(taken, PATH, b"")
    connection.request(refused, PATH, b"")

    connection.receive(frame(GOAWAY, 0, 0, struct.pack(">II", 1, 0) + b"max_age"))

    assert (taken.status, refused.status) == (None, 14)
    assert "max_age" in connection.goaway


def test_a_lost_connection_ends_every_call():
    connection, answers = connected(streams=1), [Answer(), Answer()]
    for answer in answers:
        connection.request(answer, PATH, b"")

    connection.fail("connection lost")

    assert [(a.status, a.message) for a in answers] == [(14, "connection lost")] * 2


def test_messages_are_cut_out_of_data_however_it_comes():
    data = prefixed(b"one") + prefixed(b"") + prefixed(b"three")
    for cut in range(len(data)):
        messages = Messages()

        assert messages.feed(data[:cut]) + messages.feed(data[cut:]) == [b"one", b"", b"three"]


def test_a_compressed_message_is_refused():
    with pytest.raises(ProtocolError):
        Messages().feed(b"\x01\0\0\0\0")
