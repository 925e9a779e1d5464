"""Encodings of a Go kine bucket: keys as subjects, values as S2 and Snappy streams."""

from __future__ import annotations

import json
from base64 import b64decode
from contextlib import suppress
from pathlib import Path

import cramjam
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.msg import Msg

from kine.drivers.base import InvalidKeyError
from kine.drivers.nats import s2, subjects
from kine.drivers.nats.stream import last_sequence_of

# Made by klauspost/compress's s2.Writer at its four settings.
VECTORS = json.loads(Path(__file__).with_name("s2_vectors.json").read_text())


@pytest.mark.parametrize(
    ("key", "subject"),
    [
        (b"a", "meta.2g"),
        (b"/a/a", "2g.2g"),
        (b"a/*/a", "meta.2g.j.2g"),
        (b"/a/*/a/", "2g.j.2g.p"),
        (b"/a//b", "2g.p.2h"),
    ],
)
def test_keys_are_written_as_go_kine_writes_them(key: bytes, subject: str) -> None:
    assert subjects.encode(key) == subject
    assert subjects.decode(subject) == key


@given(st.binary(max_size=200))
def test_a_key_comes_back_from_its_subject(key: bytes) -> None:
    assert subjects.decode(subjects.encode(key)) == key


def test_a_subject_no_kine_wrote_is_told_apart() -> None:
    assert subjects.decode("not-base58.0") is None


def test_a_key_longer_than_a_subject_is_refused() -> None:
    with pytest.raises(InvalidKeyError):
        subjects.encode(b"/" + b"x" * 3_000)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["Name"])
def test_streams_of_go_kine_are_read(vector: dict[str, str]) -> None:
    assert s2.decompress(b64decode(vector["Stream"])) == b64decode(vector["Plain"])


@given(st.binary(max_size=5_000), st.integers(1, 40))
def test_what_is_written_is_read(data: bytes, times: int) -> None:
    assert s2.decompress(s2.compress(data * times)) == data * times


@given(st.binary(max_size=5_000), st.integers(1, 40))
def test_our_decoder_reads_plain_snappy_blocks(data: bytes, times: int) -> None:
    assert s2.decode_block(bytes(cramjam.snappy.compress_raw(data * times))) == data * times


@given(st.binary(max_size=300))
def test_bytes_at_random_are_refused_or_read(data: bytes) -> None:
    for stream in (data, b"\xff\x06\x00\x00S2sTwO" + data):
        with suppress(s2.CorruptError):
            s2.decompress(stream)
    with suppress(s2.CorruptError):
        s2.decode_block(data)


def info(*active: int, leader: str = "n0") -> bytes:
    """A stream's info, as its leader reports it, with nanoseconds since each replica was last active."""
    replicas = [{"name": f"n{n}", "current": True, "active": since} for n, since in enumerate(active, 1)]
    cluster = {"cluster": {"leader": leader, **({"replicas": replicas} if replicas else {})}}
    config = {"description": '"last_seq":3, "replicas":', "num_replicas": len(active) + 1}
    state = {"messages": 9, "first_seq": 4, "last_seq": 12, "num_subjects": 5}
    return json.dumps({"config": config, "state": state, **cluster}, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("answer", "sequence"),
    [
        (info(), 12),
        (info(10**9, 10**9), 12),
        (info(10**9, 10**10), 12),
        (info(10**10, 10**10), None),
        (info(10**9, 10**9, leader="n1"), None),
        (b'{"error":{"code":404,"err_code":10059}}', None),
        (b'{"error":{"description":"x"},"replicas":[]}', None),
        (b'"replicas":', None),
        (b"", None),
    ],
)
def test_the_last_sequence_is_read_where_its_leader_is_to_be_believed(
    answer: bytes, sequence: int | None
) -> None:
    assert last_sequence_of(Msg(None, data=answer)) == sequence  # type: ignore[arg-type]  # no connection
