"""The message format of rows, as in Go kine: JSON in an S2 or Snappy stream.

    {"KV": {Key, Value (base64), Version, CreateRevision, ModRevision, Lease (seconds)},
     "PrevRevision", "Create", "Delete"}

This kine adds `LeaseID`, and counts `Version`, which Go kine leaves at 0. Go kine deletes with two messages:
a row with `Delete`, and a delete marker after it, without which it could not create the key again. This kine
writes one: the header `Nats-Marker-Reason` makes the row a marker to NATS clients, including Go kine's.
"""

from __future__ import annotations

import json
from binascii import a2b_base64, b2a_base64
from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

from kine.drivers.base import NewRow, Row
from kine.drivers.nats import s2

OURS = "Kine-Row"  # the write's name and the revision it replaces; Go kine does not set it
EXPECTED = "Nats-Expected-Last-Subject-Sequence"
MARKER = "Nats-Marker-Reason"
BATCH = "Nats-Batch-Id"
COMMIT = "Nats-Batch-Commit"
_OPERATION = "KV-Operation"


class MessageKind(Enum):
    ROW = "row"
    MARKER = "marker"  # Go kine's second message of a deletion, or a deletion by another KV client
    FOREIGN = "foreign"  # written neither by kine nor by Go kine


class RowMessage(NamedTuple):
    """A message of the bucket's stream."""

    sequence: int
    subject: str  # without the bucket's prefix
    headers: Mapping[str, str]
    data: bytes


def encode(row: NewRow) -> bytes:
    value = "null" if row.value is None else f'"{b2a_base64(row.value, newline=False).decode()}"'
    return s2.compress(
        (
            f'{{"KV":{{"Key":{json.dumps(row.name.decode("utf-8", "replace"))},"Value":{value},'
            f'"Version":{row.version},"CreateRevision":{row.create_revision},"ModRevision":0,'
            f'"Lease":{row.ttl}}},"PrevRevision":{row.prev_revision},'
            f'"Create":{_BOOL[row.created]},"Delete":{_BOOL[row.deleted]},"LeaseID":{row.lease}}}'
        ).encode()
    )


_BOOL = ("false", "true")


def headers(row: NewRow, write: str, expected: int) -> dict[str, str]:
    found = {EXPECTED: str(expected), OURS: f"{write} {row.prev_revision}"}
    if row.deleted:
        found[MARKER] = "Remove"
    return found


def written_by(message: RowMessage) -> str:
    """The name of the write; empty for a message that this kine did not write."""
    return message.headers.get(OURS, "").partition(" ")[0]


def replaces_nothing(message: RowMessage) -> bool:
    """Whether the row replaces no other, by the headers; False if they do not say."""
    return message.headers.get(OURS, "").endswith(" 0")


def is_deletion(message: RowMessage) -> bool:
    """Whether the headers mark a deletion. Go kine's tombstone row has none; the marker after it has."""
    return MARKER in message.headers or _OPERATION in message.headers


def message_kind(message: RowMessage) -> MessageKind:
    if message.headers.get(_OPERATION) in ("DEL", "PURGE"):
        return MessageKind.MARKER
    if MARKER in message.headers and not message.data:
        return MessageKind.MARKER
    return MessageKind.ROW if message.data[:4] == b"\xff\x06\x00\x00" else MessageKind.FOREIGN


def decode(message: RowMessage, name: bytes, *, with_value: bool) -> Row | None:
    """The row; None for a message that is not in the format of kine and Go kine."""
    try:
        record = json.loads(s2.decompress(message.data))
        kv = record["KV"]
        deleted = bool(record.get("Delete"))
        value: bytes | None = None
        if with_value:
            value = a2b_base64(kv.get("Value") or "") if not deleted else b""
        return Row(
            message.sequence,
            name,
            bool(record.get("Create")),
            deleted,
            message.sequence if record.get("Create") else int(kv.get("CreateRevision") or 0),
            int(record.get("PrevRevision") or 0),
            0 if deleted else int(kv.get("Lease") or 0),
            value,
            0 if deleted else int(record.get("LeaseID") or 0),
            int(kv.get("Version") or 0) if OURS in message.headers else 0,
            BATCH in message.headers and COMMIT not in message.headers,
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
