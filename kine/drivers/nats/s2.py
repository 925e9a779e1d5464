"""S2 and Snappy streams: reads both, and writes Snappy, which S2 extends and every reader supports.

Formats: google/snappy's framing_format.txt and format_description.txt. S2 adds two things to a block
(klauspost/compress, s2/README.md): a copy with offset 0, which repeats the last offset and may be longer, and
blocks over 64 KiB. Checksums of blocks are not verified, as JetStream has a checksum of each message.
"""

from __future__ import annotations

import cramjam

_IDENTIFIERS = (b"\xff\x06\x00\x00sNaPpY", b"\xff\x06\x00\x00S2sTwO")
_COMPRESSED = 0x00
_PLAIN = 0x01
_FIRST_SKIPPABLE = 0x80
_CHECKSUM = 4  # bytes
_LARGEST = 1 << 28  # bytes in a block: far above S2's 4 MiB, bounds the memory for a corrupt length


class CorruptError(ValueError):
    """The bytes are not a valid S2 or Snappy stream."""


def compress(data: bytes) -> bytes:
    return bytes(cramjam.snappy.compress(data))


def decompress(stream: bytes) -> bytes:
    """The uncompressed data; empty for an empty stream. Raises CorruptError."""
    if not stream:
        return b""
    if stream[:10] not in _IDENTIFIERS:
        raise CorruptError("not an S2 or Snappy stream")
    out = []
    position, end = 10, len(stream)
    while position < end:
        if position + 4 > end:
            raise CorruptError("a chunk's header is cut off")
        kind = stream[position]
        start = position + 4
        position = start + int.from_bytes(stream[position + 1 : start], "little")
        if position > end:
            raise CorruptError("a chunk is cut off")
        if kind in (_COMPRESSED, _PLAIN):
            if position - start < _CHECKSUM:
                raise CorruptError("a chunk has no room for its checksum")
            content = stream[start + _CHECKSUM : position]
            out.append(content if kind == _PLAIN else _block(content))
        elif kind < _FIRST_SKIPPABLE:
            raise CorruptError("a chunk of an unknown kind")
    return out[0] if len(out) == 1 else b"".join(out)


def _block(block: bytes) -> bytes:
    try:
        return bytes(cramjam.snappy.decompress_raw(block))
    except cramjam.DecompressionError:
        return decode_block(block)  # it uses S2's extensions, or is corrupt


def decode_block(block: bytes) -> bytes:
    """The uncompressed data of one S2 block. Raises CorruptError."""
    try:
        return _decode_block(block)
    except IndexError:
        raise CorruptError("a block is cut off") from None


def _decode_block(block: bytes) -> bytes:
    size, position = _varint(block)
    if size > _LARGEST:
        raise CorruptError("a block's length is out of bounds")
    out = bytearray()
    offset = 0
    end = len(block)
    while position < end:
        tag = block[position]
        position += 1
        kind = tag & 3
        if kind == 0:  # a literal
            length = tag >> 2
            if length >= 60:
                more = length - 59
                length = int.from_bytes(block[position : position + more], "little")
                position += more
            length += 1
            if position + length > end:
                raise CorruptError("a literal is cut off")
            out += block[position : position + length]
            position += length
            continue
        if kind == 1:
            length = tag >> 2 & 7
            new = (tag & 0xE0) << 3 | block[position]
            position += 1
            if new:
                offset = new
                length += 4
            else:  # S2 repeats the last offset; 5, 6, 7 mean that the length follows
                if length > 4:
                    more = length - 4
                    extra = int.from_bytes(block[position : position + more], "little")
                    if position + more > end:
                        raise CorruptError("a repeat is cut off")
                    position += more
                    length = extra + (4, 1 << 8, 1 << 16)[more - 1]
                length += 4
        else:
            width = 2 if kind == 2 else 4
            length = (tag >> 2) + 1
            if position + width > end:
                raise CorruptError("a copy is cut off")
            offset = int.from_bytes(block[position : position + width], "little")
            position += width
        if not 0 < offset <= len(out) or len(out) + length > size:
            raise CorruptError("a copy reaches outside")
        start = len(out) - offset
        if offset >= length:
            out += out[start : start + length]
        else:  # the copy overlaps its own output
            pattern = bytes(out[start:])
            out += (pattern * (length // offset + 1))[:length]
    if len(out) != size:
        raise CorruptError("a block is not as long as it says")
    return bytes(out)


def _varint(block: bytes) -> tuple[int, int]:
    number = 0
    for position in range(min(5, len(block))):
        byte = block[position]
        number |= (byte & 127) << 7 * position
        if byte < 128:
            return number, position + 1
    raise CorruptError("a block has no length")
