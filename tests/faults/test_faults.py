"""Short runs of the fault suite; `make test-faults` has the long ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.faults.run import Plan, run

if TYPE_CHECKING:
    from tests.conftest import Needs
    from tests.servers import Backend

SEED = "short"


@pytest.mark.slow
@pytest.mark.quick_on("sqlite", "postgres")
def test_histories_hold_under_faults(backend: Backend, needs: Needs, tmp_path: Path) -> None:
    needs("second_instance")
    if backend.transport == "grpcio":
        pytest.skip("one transport is enough")

    plan = Plan(backend, SEED, operations=100_000, seconds=6.0, least=200, clients=6, disk=False)

    report = run(plan, tmp_path / "data")

    assert report.violations[:5] == [], f"seed {SEED!r}: {len(report.violations)} violations"
    assert report.operations > 100


@pytest.mark.engines
@pytest.mark.timeout(600)
def test_longer_histories_hold_under_faults(backend: Backend, needs: Needs, tmp_path: Path) -> None:
    needs("second_instance")
    if backend.transport == "grpcio":
        pytest.skip("one transport is enough")

    report = run(Plan(backend, "longer", operations=100_000, seconds=40.0, least=1000), tmp_path / "data")

    assert report.violations[:5] == [], f"{len(report.violations)} violations"
