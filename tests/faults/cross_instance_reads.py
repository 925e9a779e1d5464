"""Reads at one instance right after another has compacted or revoked, with no write in between."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import grpc

from tests.client import Client
from tests.faults.traffic import PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterator

COMPACTED = "etcdserver: mvcc: required revision has been compacted"


def after_compaction(other: Client, compacted: int) -> Iterator[str]:
    """Wrong responses of the other instance about a revision that is compacted."""
    with contextlib.suppress(grpc.RpcError):
        found = other.range(PREFIX + b"first", revision=compacted - 1)
        yield f"{other.address} answered at {compacted - 1}, {compacted} being compacted: {found}"
    try:
        other.compact(compacted)
    except grpc.RpcError:
        return
    yield f"{other.address} compacted to {compacted} once more"


def after_revocation(one: Client, other: Client) -> Iterator[str]:
    """Wrong responses of the other instance about a lease that both knew."""
    with contextlib.suppress(grpc.RpcError):
        lease = one.grant(600).ID
        known = other.time_to_live(lease).TTL
        one.revoke(lease)
        left = other.time_to_live(lease).TTL
        if left != -1:
            yield f"{other.address} gave lease {lease} {left} s, {known} before; {one.address} had revoked it"
        kept = other.keep_alive_once(lease).TTL
        if kept:
            yield f"{other.address} kept lease {lease} alive, which {one.address} had revoked"
