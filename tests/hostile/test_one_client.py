"""Cost to others of a well-behaved client, the baseline for the rows of docs/guarantees.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.hostile.harness import MIB

if TYPE_CHECKING:
    from tests.hostile.harness import Target


def test_client_that_behaves_costs_next_to_nothing(target: Target) -> None:
    client = target.client()
    with target.probed() as probe:
        before = probe.answered
        for number in range(100 * target.scale):
            client.put(b"/k%d" % number, b"v")
        probe.answers(1)

    assert probe.answered > before
    assert target.memory_growth < 64 * MIB
    assert target.page("/healthz")[0] == 200
    assert target.metric("kine_keys") >= 100
    assert target.unlinked == 0
    assert target.messages_per_turn == 0
