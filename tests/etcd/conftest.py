"""Fixtures that several files of the suite share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.client import Client


@pytest.fixture
def five(client: Client, prefix: bytes) -> list[bytes]:
    """The keys a to e, with values in the reverse order."""
    keys = [prefix + letter for letter in (b"a", b"b", b"c", b"d", b"e")]
    for number, key in enumerate(keys):
        client.put(key, b"value %d" % (9 - number))
    return keys
