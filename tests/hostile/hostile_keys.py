"""Keys that databases confuse with others, order differently, truncate, or fail on."""

from __future__ import annotations

from functools import reduce

FAMILIES: dict[str, list[bytes]] = {
    "case": [b"key", b"Key", b"KEY", b"kEy"],
    "spaces at the end": [b"k", b"k ", b"k  ", b"k\t", b"k\n", b"k\0", b"k \0"],
    "accents": ["\u00e9".encode(), "e\u0301".encode(), b"e", "\u00c9".encode(), "\u00ea".encode()],
    "normal forms": [
        text.encode() for text in ("\u212b", "\u00c5", "A\u030a", "\ufb01", "fi", "\uff4b", "k")
    ],
    "sharp s and i": [
        text.encode() for text in ("\u00df", "ss", "\u1e9e", "SS", "i", "I", "\u0130", "\u0131")
    ],
    "beyond the plane": [text.encode() for text in ("\U0001f600", "\uffff", "\ufeff", "\u200b", "z")],
    "no UTF-8": [b"\xff", b"\xfe\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\x80", b"a\xc3", b"\xf4\x90\x80\x80"],
    "NUL": [b"\0", b"\0\0", b"a\0b", b"a\0", b"a", b"\0a"],
    "control": [b"\r\n", b"\n", b"\x1b[2J", b"\x7f", b"\x01", b"\x1a"],
    "slashes": [b"/", b"//", b"///", b"a/", b"a//b", b"/a", b"a/b"],
    "SQL": [b"%", b"_", b"a%", b"a_", b"ab", b"\\", b"\\\\", b"\\'", b"'", b"''", b'"', b"`", b"--", b"?",
            b"$1", b"%s", b":a", b"'; DROP TABLE kine; --", b"' OR '1'='1", b"\\' OR 1=1 #", b"/*", b"%%"],
    "NATS": [b"*", b">", b"a.b", b".", b"..", b"meta", b"a*", b"a.>", b"1", b"11", b"\0001"],
    "own": [b"gap-1", b"gap-1 ", b"compact_rev_key", b"kine", b"NULL", b"null", b"0", b"-1", b"1e3", b"true"],
}  # fmt: skip
LENGTHS = [200, 255, 256, 600, 700, 1_024, 2_000]  # bytes with what comes before

ROOTLESS = [
    b"a",
    b"A",
    b"a/b",
    b"meta/b",
    b" ",
    b"'",
    b".",
    b"registry",
    b"/",
    b"//",
    b"///",
    b"/meta/x",
    b"\xff",
]


def every(prefix: bytes) -> list[bytes]:
    """All hostile keys, each once, below `prefix`."""
    found = reduce(lambda all_of, family: [*all_of, *family], FAMILIES.values(), list[bytes]())
    found += [b"x" * (length - len(prefix)) for length in LENGTHS]
    return [prefix + key for key in dict.fromkeys(found)]
