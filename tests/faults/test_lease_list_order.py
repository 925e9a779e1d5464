"""LeaseLeases lists leases in the order of expiry, as etcd's leader does, whichever instance granted them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kine.proto import rpc_pb2 as pb
from tests.client import Client

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers import Backend

TTL = 600


def listed(client: Client) -> list[int]:
    answer = client.call("Lease/LeaseLeases", pb.LeaseLeasesRequest(), pb.LeaseLeasesResponse)
    return [lease.ID for lease in answer.leases]


def test_every_instance_lists_leases_in_one_order_and_keeps_it_when_it_starts(
    backend: Backend, tmp_path: Path
) -> None:
    if not backend.capabilities.second_instance or backend.transport == "grpcio":
        pytest.skip("no second instance there, or the same as on the other transport")
    first, second = backend.start(tmp_path), backend.start(tmp_path)
    with Client(first.address) as one, Client(second.address) as other:
        granted = [client.grant(TTL).ID for _ in range(8) for client in (one, other)]
        soon = [other.grant(TTL // 2).ID, one.grant(TTL // 2).ID]
        assert listed(one) == listed(other) == [*soon, *granted]

        late = [granted.pop(3), granted.pop(6)]
        for client, lease in zip((one, other), late, strict=True):  # each granted by the other
            assert client.keep_alive_once(lease).TTL == TTL
        order = [*soon, *granted, *late]
        assert listed(one) == listed(other) == order
    first.stop()
    first = backend.start(tmp_path)
    with Client(first.address) as one:
        assert listed(one) == order
    first.kill()
    second.kill()
