"""The file format of Kerberos credential caches, version 4: the parts that kine changes for libpq.

https://web.mit.edu/kerberos/krb5-latest/doc/formats/ccache_file_format.html
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

VERSION = b"\x05\x04"
_SETTINGS_REALM = b"X-CACHECONF:"  # realm of entries that are settings, not tickets


@dataclass(frozen=True, slots=True)
class Principal:
    kind: int
    realm: bytes
    parts: tuple[bytes, ...]

    def packed(self) -> bytes:
        packed = struct.pack("!II", self.kind, len(self.parts)) + _data(self.realm)
        return packed + b"".join(_data(part) for part in self.parts)


@dataclass(frozen=True, slots=True)
class CachedCredential:
    client: Principal
    server: Principal
    rest: bytes  # key, times, flags, the ticket itself

    @property
    def is_ticket(self) -> bool:
        return self.server.realm != _SETTINGS_REALM


@dataclass(frozen=True, slots=True)
class CredentialCache:
    head: bytes
    owner: Principal
    entries: tuple[CachedCredential, ...]

    def packed(self) -> bytes:
        entries = (entry.client.packed() + entry.server.packed() + entry.rest for entry in self.entries)
        return self.head + self.owner.packed() + b"".join(entries)


def parse(content: bytes) -> CredentialCache:
    """Parses a cache file. Raises ValueError."""
    if content[:2] != VERSION:
        raise ValueError("not a credential cache of version 4")
    try:
        reader = _Reader(content, 2)
        reader.skip(reader.number("!H"))
        head = content[: reader.place]
        owner = reader.principal()
        entries = []
        while reader.place < len(content):
            entries.append(reader.entry())
    except struct.error:
        raise ValueError("the credential cache ends too early") from None
    return CredentialCache(head, owner, tuple(entries))


def prepared(content: bytes, aliases: dict[Principal, Principal]) -> bytes:
    """The cache without its settings, and with a copy of each alias' target ticket under the alias.

    A setting makes libkrb5 renew a ticket automatically, during a handshake. Raises ValueError.
    """
    cache = parse(content)
    tickets = tuple(entry for entry in cache.entries if entry.is_ticket)
    found = {(entry.server.realm, entry.server.parts): entry for entry in tickets}
    added = tuple(
        replace(found[target.realm, target.parts], server=alias)
        for alias, target in aliases.items()
        if (target.realm, target.parts) in found
    )
    return replace(cache, entries=tickets + added).packed()


def principal(name: str) -> Principal:
    """Parses `part/part@REALM`, in which a backslash escapes the next character."""
    parts, realm, taken = [""], "", False
    characters = iter(name)
    for character in characters:
        if character == "\\":
            character = next(characters, "")
        elif character == "@" and not taken:
            taken = True
            continue
        elif character == "/" and not taken:
            parts.append("")
            continue
        if taken:
            realm += character
        else:
            parts[-1] += character
    return Principal(1, realm.encode(), tuple(part.encode() for part in parts))


def _data(data: bytes) -> bytes:
    return struct.pack("!I", len(data)) + data


class _Reader:
    def __init__(self, content: bytes, place: int) -> None:
        self._content = content
        self.place = place

    def number(self, form: str) -> int:
        (found,) = struct.unpack_from(form, self._content, self.place)
        self.place += struct.calcsize(form)
        return int(found)

    def skip(self, size: int) -> None:
        self.place += size
        if self.place > len(self._content):
            raise struct.error

    def data(self) -> bytes:
        size = self.number("!I")
        start = self.place
        self.skip(size)
        return self._content[start : self.place]

    def principal(self) -> Principal:
        kind, count = self.number("!I"), self.number("!I")
        realm = self.data()
        return Principal(kind, realm, tuple(self.data() for _ in range(count)))

    def entry(self) -> CachedCredential:
        client, server = self.principal(), self.principal()
        start = self.place
        self.skip(2)  # the key's encryption type
        self.data()
        self.skip(16 + 1 + 4)  # times, a flag, the ticket's flags
        for _ in range(2):  # addresses, authorization data
            for _ in range(self.number("!I")):
                self.skip(2)
                self.data()
        self.data()  # the ticket
        self.data()  # a second one
        return CachedCredential(client, server, self._content[start : self.place])
