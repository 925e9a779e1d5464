"""Statement names in the metrics, which are Go kine v0.17.5's where the statements are the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kine.drivers.sql.log import SqlLog
from kine.observe import metrics
from tests.drivers.row_shorthand import created, write

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.drivers.conftest import OpenLog
    from tests.drivers.driver_databases import Place


async def test_an_insert_is_counted_by_go_kines_name(
    place: Place, open_log: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []

    def noted(observe: Callable[..., None]) -> Callable[..., None]:
        def observed(name: str, *rest: object) -> None:
            names.append(name)
            observe(name, *rest)

        return observed

    if place.kind == "nats":
        pytest.skip("Go kine counts no statements there")
    monkeypatch.setattr("kine.drivers.sql.statement_timing.observe_sql", noted(metrics.observe_sql))
    log = await open_log(place)

    await log.append([write(created(b"/counted"))], 0)
    if isinstance(log, SqlLog):
        async with log._database.transaction("Insert"):
            pass

    due = "InsertReturning" if place.kind == "postgres" else "Insert"
    assert due in names
    assert not [name for name in names if name.startswith("Insert") and name != due]
