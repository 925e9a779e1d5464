"""Instances started simultaneously on a database that does not exist yet: all of them serve."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.client import Client, prefix_end

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Needs
    from tests.servers import Backend

INSTANCES = 3
PREFIX = b"/registry/started/"


@pytest.mark.slow
def test_all_of_them_serve_one_database(backend: Backend, needs: Needs, tmp_path: Path) -> None:
    needs("second_instance")
    if backend.transport == "grpcio":
        pytest.skip("one transport is enough")

    with ThreadPoolExecutor(INSTANCES) as pool, ExitStack() as stack:
        instances = list(pool.map(lambda _: backend.start(tmp_path), range(INSTANCES)))
        for instance in instances:
            stack.callback(instance.kill)
        clients = [stack.enter_context(Client(instance.address)) for instance in instances]
        revisions = [
            client.put(PREFIX + b"%d" % number).header.revision for number, client in enumerate(clients)
        ]
        found = [client.range(PREFIX, prefix_end(PREFIX)).kvs for client in clients]

    assert [item.mod_revision for item in found[0]] == revisions == sorted(set(revisions))
    assert found[1:] == found[:-1]
