"""The INSERT statement of a batch of rows, and its parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kine.drivers.base import InvalidKeyError
from kine.drivers.postgres import statements
from kine.drivers.postgres.binary_parameters import (
    BYTEA,
    BYTEAS,
    INT8,
    INT8S,
    TEXT,
    TEXTS,
    BinaryForm,
    array,
    int8,
    int8s,
)

if TYPE_CHECKING:
    from kine.drivers.postgres.pipeline import Question
    from kine.drivers.sql.database import Batch

_TYPES = {
    "writer": INT8,
    "number": INT8,
    "head": INT8,
    "floor": INT8,
    "name": TEXT,
    "created": INT8,
    "deleted": INT8,
    "create_revision": INT8,
    "prev_revision": INT8,
    "ttl": INT8,
    "value": BYTEA,
    "names": TEXTS,
    "creations": INT8S,
    "deletions": INT8S,
    "create_revisions": INT8S,
    "prev_revisions": INT8S,
    "ttls": INT8S,
    "values": BYTEAS,
    "leases": INT8S,
}
_ONE = BinaryForm(b"kine_insert_one", statements.INSERT_ONE, _TYPES)
_MANY = BinaryForm(b"kine_insert", statements.INSERT_MANY, _TYPES)
_MANY_LEASED = BinaryForm(b"kine_insert_leased", statements.INSERT_MANY_LEASED, _TYPES)
_ONE_BRIEF = BinaryForm(b"kine_insert_one_brief", statements.INSERT_ONE_BRIEF, _TYPES)
_MANY_BRIEF = BinaryForm(b"kine_insert_brief", statements.INSERT_MANY_BRIEF, _TYPES)
_FLAGS = int8(0), int8(1)


def insertion(batch: Batch) -> Question:
    """Builds the INSERT, which returns the id and the name of each inserted row. Raises InvalidKeyError."""
    rows = batch.rows
    for row in rows:
        text(row.name)
    parameters: dict[str, bytes | None] = {
        "writer": int8(batch.writer),
        "number": int8(batch.number),
        "head": int8(batch.head),
        "floor": int8(batch.floor),
    }
    if len(rows) == 1 and not rows[0].lease:
        row = rows[0]
        parameters["name"] = row.name
        parameters["created"] = _FLAGS[row.created]
        parameters["deleted"] = _FLAGS[row.deleted]
        parameters["create_revision"] = int8(row.create_revision)
        parameters["prev_revision"] = int8(row.prev_revision)
        parameters["ttl"] = int8(row.ttl)
        parameters["value"] = row.value
        return (_ONE_BRIEF if batch.brief else _ONE).question(parameters)
    names, creations, deletions, create_revisions, prev_revisions, ttls, values, leases, *_ = zip(
        *rows, strict=True
    )
    parameters["names"] = array(TEXT, names)
    parameters["creations"] = int8s(creations)
    parameters["deletions"] = int8s(deletions)
    parameters["create_revisions"] = int8s(create_revisions)
    parameters["prev_revisions"] = int8s(prev_revisions)
    parameters["ttls"] = int8s(ttls)
    parameters["values"] = array(BYTEA, values)
    parameters["leases"] = int8s(leases)
    if batch.brief:  # deletions
        return _MANY_BRIEF.question(parameters)
    return (_MANY_LEASED if any(leases) else _MANY).question(parameters)


def text(name: bytes) -> str:
    """The name as PostgreSQL text. Raises InvalidKeyError."""
    if b"\0" in name:
        raise InvalidKeyError("this key has a NUL byte, which PostgreSQL's text cannot hold")
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise InvalidKeyError("this key is not UTF-8, which is all PostgreSQL's text can hold") from None
