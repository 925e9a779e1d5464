"""HPACK header compression (RFC 7541), for a server that sees a few gRPC clients' blocks millions of times.

The decoder is written here because every request needs it: a block of eight fields, one of them new
(clients with deadlines send a new `grpc-timeout` each time), costs about 6 us, where the `hpack` library
takes about 20. A block that only refers to the tables decodes to the same fields until the dynamic table
changes, so whole blocks are cached until then. Huffman codes are the library's; each short string is decoded
once and cached. The tests compare this decoder with the library.

Encoding uses no dynamic table: the header blocks of a response are constants.
"""

from __future__ import annotations

from hpack.exceptions import HPACKDecodingError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

Field = tuple[bytes, bytes]

_STATIC: list[Field] = list(HeaderTable.STATIC_TABLE)
_FIRST_DYNAMIC = len(_STATIC) + 1
_ENTRY_OVERHEAD = 32
_MAX_TABLE = 4096  # bytes allowed: HTTP/2's default, which SETTINGS never changes
_REMEMBERED = 4096  # cached Huffman strings, for the whole process
_BLOCKS = 128  # cached blocks, for each connection
_SHORT = 512  # maximum bytes of a cached block, to bound the cache

_strings: dict[bytes, bytes] = {}


class BlockError(Exception):
    """COMPRESSION_ERROR: the dynamic tables of the two peers are out of sync."""


class ListTooLargeError(Exception):
    """The header list exceeds the limit. The dynamic tables are still in sync."""


class Decoder:
    __slots__ = ("_blocks", "_entries", "_limit", "_max_list", "_size")

    def __init__(self, max_list: int) -> None:
        self._entries: list[Field] = []  # the newest last
        self._size = 0
        self._limit = _MAX_TABLE
        self._max_list = max_list
        self._blocks: dict[bytes, tuple[Field, ...]] = {}

    def decode(self, block: bytes) -> tuple[Field, ...]:
        """The fields in order. Raises BlockError, ListTooLargeError."""
        known = self._blocks.get(block)
        if known is not None:
            return known
        fields, size, changed = self._decode(block)
        if changed:
            self._blocks.clear()
        if size > self._max_list:
            raise ListTooLargeError
        result = tuple(fields)
        if not changed and len(block) <= _SHORT:
            if len(self._blocks) >= _BLOCKS:
                self._blocks.clear()
            self._blocks[block] = result
        return result

    def _decode(self, block: bytes) -> tuple[list[Field], int, bool]:
        fields: list[Field] = []
        size = position = 0
        end = len(block)
        changed = False
        try:
            while position < end:
                first = block[position]
                if first & 0x80:  # an indexed field
                    if first == 0xFF:
                        index, position = _integer(block, position, 0x7F)
                    else:
                        index, position = first & 0x7F, position + 1
                    field = self._field(index)
                elif first & 0x40:  # a literal, to be added to the table
                    name, position = self._name(block, position, 0x3F)
                    value, position = _string(block, position)
                    field = (name, value)
                    self._add(field)
                    changed = True
                elif first & 0x20:  # a new size of the table: only before the first field
                    if size:
                        raise BlockError("table size update after a field")
                    limit, position = _integer(block, position, 0x1F)
                    if limit > _MAX_TABLE:
                        raise BlockError("table size above the one allowed")
                    self._limit = limit
                    self._evict()
                    changed = True
                    continue
                else:  # a literal, not to be added
                    name, position = self._name(block, position, 0x0F)
                    value, position = _string(block, position)
                    field = (name, value)
                size += len(field[0]) + len(field[1]) + _ENTRY_OVERHEAD
                if size <= self._max_list:  # beyond the limit, only the table is kept in sync
                    fields.append(field)
        except IndexError:
            raise BlockError("the block ends within a field") from None
        return fields, size, changed

    def _name(self, block: bytes, position: int, mask: int) -> tuple[bytes, int]:
        index, position = _integer(block, position, mask)
        if index:
            return self._field(index)[0], position
        return _string(block, position)

    def _field(self, index: int) -> Field:
        if 0 < index < _FIRST_DYNAMIC:
            return _STATIC[index - 1]
        index -= _FIRST_DYNAMIC
        if not 0 <= index < len(self._entries):
            raise BlockError("index of no field")
        return self._entries[-1 - index]

    def _add(self, field: Field) -> None:
        self._entries.append(field)
        self._size += len(field[0]) + len(field[1]) + _ENTRY_OVERHEAD
        if self._size > self._limit:
            self._evict()

    def _evict(self) -> None:
        gone = 0
        for name, value in self._entries:
            if self._size <= self._limit:
                break
            self._size -= len(name) + len(value) + _ENTRY_OVERHEAD
            gone += 1
        del self._entries[:gone]


def _integer(block: bytes, position: int, mask: int) -> tuple[int, int]:
    number = block[position] & mask
    position += 1
    if number < mask:
        return number, position
    shift = 0
    while True:
        octet = block[position]
        position += 1
        number += (octet & 0x7F) << shift
        if octet < 0x80:
            return number, position
        shift += 7
        if shift > 28:
            raise BlockError("an integer too large")


def _string(block: bytes, position: int) -> tuple[bytes, int]:
    first = block[position]
    length, position = _integer(block, position, 0x7F)
    end = position + length
    if end > len(block):
        raise BlockError("a string longer than its block")
    string = block[position:end]
    return (_huffman(string) if first & 0x80 else string), end


def _huffman(string: bytes) -> bytes:
    known = _strings.get(string)
    if known is None:
        try:
            known = bytes(decode_huffman(string))
        except HPACKDecodingError:
            raise BlockError("no Huffman code") from None
        if len(string) <= 64:
            if len(_strings) >= _REMEMBERED:
                _strings.clear()
            _strings[string] = known
    return known


def literal(name: bytes, value: bytes) -> bytes:
    """A field encoded without the dynamic table, so that a block of such fields is a constant."""
    return b"\x00" + _length(len(name)) + name + _length(len(value)) + value


def _length(length: int) -> bytes:
    if length < 0x7F:
        return bytes((length,))
    length -= 0x7F
    encoded = bytearray(b"\x7f")
    while length > 0x7F:
        encoded.append(length & 0x7F | 0x80)
        length >>= 7
    encoded.append(length)
    return bytes(encoded)
