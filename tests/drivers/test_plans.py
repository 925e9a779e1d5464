"""Plans of kine's statements on PostgreSQL that were made for a table that was still empty."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kine.drivers.postgres.batch_insert import insertion
from kine.drivers.sql.database import Batch
from tests.drivers.driver_databases import PostgresPlace
from tests.drivers.row_shorthand import created

if TYPE_CHECKING:
    from tests.databases.postgres import Postgres
    from tests.drivers.conftest import OpenLog


@pytest.mark.parametrize("lease", [0, 7])
@pytest.mark.parametrize("count", [1, 2])
async def test_no_group_of_rows_makes_it_read_the_whole_table(
    postgres_server: Postgres, open_log: OpenLog, count: int, lease: int
) -> None:
    place = PostgresPlace(postgres_server)
    await open_log(place)
    rows = [created(b"/%d" % number)._replace(lease=lease) for number in range(count)]
    (_, text, types), parameters = insertion(Batch(rows, 1, 1, 0))
    with postgres_server.admin(place.database) as admin:
        declared = ", ".join(f"{oid}::regtype" for oid in types)
        names = admin.execute(f"SELECT {declared}").fetchone()
        assert names is not None
        admin.execute(f"PREPARE insertion ({', '.join(names)}) AS ".encode() + text)
        admin.execute("SET plan_cache_mode = force_generic_plan")
        plan = admin.execute(f"EXPLAIN EXECUTE insertion ({', '.join(['NULL'] * len(parameters))})")
        steps = [step for (step,) in plan]
    assert [step for step in steps if "Seq Scan on kine" in step and "kine_writer" not in step] == []
    assert any("Insert on kine" in step for step in steps)
