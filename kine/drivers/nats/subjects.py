"""The encoding of keys as NATS subjects, as in Go kine.

The parts of a key between slashes are each encoded in base58 (Bitcoin's alphabet) and joined with dots. An
empty part becomes an encoded slash, and a key without a leading slash gets the first token `meta`.
"""

from __future__ import annotations

from functools import lru_cache

from kine.drivers.base import InvalidKeyError

_ALPHABET = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_DIGITS = {letter: digit for digit, letter in enumerate(_ALPHABET)}
_SEVERAL = 58**10
_NO_ROOT = "meta"
# A server closes the connection on a control line over 4 KiB, which holds the subject and the reply subject.
_LONGEST = 3_500


@lru_cache(16_384)
def _encode_part(part: bytes) -> str:
    part = part or b"/"
    zeros = len(part) - len(part.lstrip(b"\0"))
    number = int.from_bytes(part, "big")
    digits = bytearray()
    while number:
        number, several = divmod(number, _SEVERAL)  # dividing a long number takes time by its length
        for _ in range(10):
            several, digit = divmod(several, 58)
            digits.append(_ALPHABET[digit])
    return "1" * zeros + digits.rstrip(b"1")[::-1].decode()


@lru_cache(16_384)
def _decode_part(token: str) -> bytes:
    number = 0
    for letter in token.encode():
        number = number * 58 + _DIGITS[letter]
    zeros = len(token) - len(token.lstrip("1"))
    part = b"\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8, "big")
    return b"" if part == b"/" else part


def encode(key: bytes) -> str:
    """The key's subject, without the bucket's prefix. Raises InvalidKeyError."""
    if len(key) > _LONGEST:  # first: a subject is no shorter, and encoding takes quadratic time
        raise _too_long(key)
    rooted = key.startswith(b"/")
    tokens = [_encode_part(part) for part in key.removeprefix(b"/").split(b"/")]
    if not rooted:
        tokens.insert(0, _NO_ROOT)
    elif tokens[0] == _NO_ROOT:
        raise InvalidKeyError("this key cannot be told from one without a leading slash in a NATS bucket")
    subject = ".".join(tokens)
    if len(subject) > _LONGEST:
        raise _too_long(key)
    return subject


def _too_long(key: bytes) -> InvalidKeyError:
    return InvalidKeyError(f"a key of {len(key)} bytes is longer than a NATS subject can be")


def decode(subject: str) -> bytes | None:
    """The subject's key; None for a subject that is not in this encoding."""
    first, *rest = subject.split(".")
    try:
        if first == _NO_ROOT and rest:
            return b"/".join(map(_decode_part, rest))
        return b"/" + b"/".join(map(_decode_part, (first, *rest)))
    except KeyError:
        return None
