"""Statements with numbered parameters ($1, $2 ...), and the parameters in PostgreSQL's binary format."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import chain, repeat

from kine.drivers.postgres.pipeline import Question, Statement

INT8, TEXT, BYTEA = 20, 25, 17  # oids
INT8S, TEXTS, BYTEAS = 1016, 1009, 1001  # oids of the array types

_PARAMETER = re.compile(r"%\((\w+)\)b")
# An array's header: dimensions, whether it has NULLs, oid of the elements, number of elements, first index.
_HEAD = ">iiIii"
_NULL = b"\xff\xff\xff\xff"


class BinaryForm:
    """A statement written with psycopg's named parameters, %(name)b, converted to numbered ones."""

    def __init__(self, name: bytes, text: str, types: Mapping[str, int]) -> None:
        """`name` is that of the prepared statement; `types` maps parameters to oids, and may have others."""
        self._names = tuple(dict.fromkeys(_PARAMETER.findall(text)))
        places = {parameter: f"${place}" for place, parameter in enumerate(self._names, 1)}
        numbered = _PARAMETER.sub(lambda found: places[found[1]], text)
        self._statement = Statement(name, numbered.encode(), tuple(types[name] for name in self._names))

    def question(self, parameters: Mapping[str, bytes | None]) -> Question:
        return self._statement, [parameters[name] for name in self._names]


def int8(number: int) -> bytes:
    return number.to_bytes(8, "big", signed=True)


def int8s(numbers: Sequence[int]) -> bytes:
    count = len(numbers)
    elements = chain.from_iterable(zip(repeat(8), numbers))  # each after its length
    return _int8s(count).pack(1, 0, INT8, count, 1, *elements)


@lru_cache(maxsize=1024)
def _int8s(count: int) -> struct.Struct:
    return struct.Struct(_HEAD + "iq" * count)


def array(element: int, items: Sequence[bytes | None]) -> bytes:
    """A one-dimensional array of TEXT or BYTEA elements; None is NULL."""
    parts = [struct.pack(_HEAD, 1, 1, element, len(items), 1)]
    for item in items:
        if item is None:
            parts.append(_NULL)
        else:
            parts.append(len(item).to_bytes(4, "big"))
            parts.append(item)
    return b"".join(parts)
