"""HPACK for the load client (RFC 7541): request blocks are encoded once, answer blocks decoded once.

A gRPC client sends the same few headers in every request, so its header block soon consists of a few indexes.
An answer's block repeats byte for byte, so its headers are looked up by those bytes.
"""

from __future__ import annotations

from hpack import Decoder

DEFAULT_TABLE_SIZE = 4096
_STATIC_ENTRIES = 61
_NAME_INDEX = {":authority": 1, ":path": 4, "content-type": 31, "user-agent": 58}


def _string(text: str) -> bytes:
    data = text.encode("ascii")
    if len(data) > 126:
        raise ValueError(f"header string of {len(data)} bytes: this encoder writes up to 126")
    return bytes([len(data)]) + data


class RequestBlocks:
    """Header blocks of the requests of one connection, by method path.

    Indexes every header as other gRPC clients do, unless the server announced a table too small for that.
    `block` must be called in the order in which the blocks are sent, because it adds to the shared table.
    """

    def __init__(self, authority: str, *, secure: bool, table_size: int = DEFAULT_TABLE_SIZE) -> None:
        self._fixed = (
            (":authority", authority),
            ("content-type", "application/grpc"),
            ("user-agent", "kine-bench"),
            ("te", "trailers"),
        )
        self._start = b"\x83\x87" if secure else b"\x83\x86"  # :method POST, :scheme
        self._indexing = table_size >= DEFAULT_TABLE_SIZE
        self._announce_empty = not self._indexing
        self._table: list[tuple[str, str]] = []  # newest last

    def block(self, path: str) -> tuple[bytes, bool]:
        """The block for a call of `path`, and whether the next call can use the same bytes."""
        size_before, announced = len(self._table), self._announce_empty
        parts = [b"\x20" if announced else b"", self._start]
        self._announce_empty = False
        parts.extend(self._field(name, value) for name, value in ((":path", path), *self._fixed))
        return b"".join(parts), len(self._table) == size_before and not announced

    @property
    def entries(self) -> int:
        """The number of headers in the table."""
        return len(self._table)

    def _field(self, name: str, value: str) -> bytes:
        if (name, value) in self._table:
            position = len(self._table) - 1 - self._table.index((name, value))
            return bytes([0x80 | (_STATIC_ENTRIES + 1 + position)])
        known = _NAME_INDEX.get(name, 0)
        named = b"" if known else _string(name)
        if self._indexing:
            self._table.append((name, value))
            if sum(len(n) + len(v) + 32 for n, v in self._table) > DEFAULT_TABLE_SIZE:
                raise ValueError("more headers than the compression table holds")
            return bytes([0x40 | known]) + named + _string(value)
        if known >= 15:  # larger than a 4-bit prefix: the rest is in a second byte
            return bytes([0x0F, known - 15]) + _string(value)
        return bytes([known]) + named + _string(value)


Headers = dict[str, str]


class AnswerBlocks:
    """Decoder for the header blocks of one connection, in the order received.

    A block that did not change the table decodes to the same headers until the table changes; those headers
    are cached. Raises hpack.HPACKError for a malformed block.
    """

    def __init__(self) -> None:
        self._decoder = Decoder()
        self._known: dict[bytes, Headers] = {}

    def decode(self, block: bytes) -> Headers:
        found = self._known.get(block)
        if found is not None:
            return found
        entries = self._decoder.header_table.dynamic_entries
        newest, count = (entries[0] if entries else None), len(entries)
        headers = {_text(name): _text(value) for name, value, *_ in self._decoder.decode(block)}
        entries = self._decoder.header_table.dynamic_entries
        resized = bool(block) and block[0] & 0xE0 == 0x20
        if resized or len(entries) != count or (entries and entries[0] is not newest):
            self._known.clear()
        elif len(self._known) < 1024:
            self._known[block] = headers
        return headers


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
