"""Several instances started simultaneously on a database that does not exist yet."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.drivers.row_shorthand import created, write

if TYPE_CHECKING:
    from tests.drivers.conftest import OpenLog
    from tests.drivers.driver_databases import Place

INSTANCES = 6


async def test_all_of_them_open_a_new_database(place: Place, open_log: OpenLog) -> None:
    logs = await asyncio.gather(*(open_log(place) for _ in range(INSTANCES)))

    for number, log in enumerate(logs):
        [ids] = await log.append([write(created(b"/instance/%d" % number))], await log.newest())
        assert ids is not None
        assert await logs[0].newest() == ids[0]
