"""Hypothesis state machine: each rule sends one random request into a `World`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from kine.proto import rpc_pb2 as pb
from tests import request_strategies
from tests.differential import World

STEPS = 40  # requests of one run at most; three quarters of it on average


class TrafficMachine(RuleBasedStateMachine):
    open_world: ClassVar[Callable[[], World]]
    count: ClassVar[Callable[[int], None]]

    def __init__(self) -> None:
        super().__init__()
        self.world = type(self).open_world()

    # Hypothesis disables some rules in each run: so every run begins with something to read.
    @initialize(puts=st.lists(request_strategies.plain_puts, min_size=4, max_size=8))
    def begin(self, puts: list[Any]) -> None:
        for lease in (1, 2):
            self.world.send(pb.LeaseGrantRequest(ID=lease, TTL=request_strategies.LEASE_TTL))
        for put in puts:
            self.world.send(put)

    @rule(request=request_strategies.writes)
    def write(self, request: Any) -> None:
        self.world.send(request)

    @rule(request=request_strategies.ranges())
    def read(self, request: Any) -> None:
        self.world.send(request)

    @rule(request=request_strategies.requests)
    def send(self, request: Any) -> None:
        self.world.send(request)

    @rule(request=request_strategies.requests)
    def send_another(self, request: Any) -> None:
        self.world.send(request)

    @rule(request=request_strategies.lease_calls)
    def lease(self, request: Any) -> None:
        self.world.send(request)

    @rule(request=request_strategies.compactions)
    def compact(self, request: Any) -> None:
        self.world.send(request)

    @rule(request=request_strategies.watches)
    def watch(self, request: Any) -> None:
        self.world.open_watch(request)

    @rule()
    def check_watches(self) -> None:
        self.world.check_watches()

    # No precondition that a watch is open: etcd may cancel one at any moment.
    @rule(choice=st.integers(0, 20))
    def cancel_watch(self, choice: int) -> None:
        self.world.cancel_watch(choice)

    def teardown(self) -> None:
        try:
            self.world.finish()
        finally:
            self.world.close()
            type(self).count(self.world.operations)


def run(open_world: Callable[[], World], count: Callable[[int], None], operations: int) -> None:
    """Sends about `operations` requests in runs of `STEPS`, and shrinks a run that fails."""

    class Machine(TrafficMachine):
        pass

    Machine.open_world = staticmethod(open_world)
    Machine.count = staticmethod(count)
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=max(1, operations // (STEPS * 3 // 4)),
            stateful_step_count=STEPS,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
        ),
    )
