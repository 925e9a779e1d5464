from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.remote.etcds import Etcds
from tests.servers import etcd

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def etcds(tmp_path: Path) -> Iterator[Etcds]:
    if reason := etcd.missing():
        pytest.skip(reason)
    started = Etcds(tmp_path)
    yield started
    started.end()
