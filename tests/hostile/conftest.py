"""What a run sends, by its options."""

from __future__ import annotations

import random

import pytest

from tests.hostile.messages import Sent, corpus


@pytest.fixture(scope="session")
def seed(pytestconfig: pytest.Config) -> int:
    return int(pytestconfig.getoption("--fuzz-seed")) or random.SystemRandom().randrange(1, 2**32)


@pytest.fixture(scope="session")
def sent(seed: int, pytestconfig: pytest.Config) -> list[Sent]:
    return corpus(seed, pytestconfig.getoption("--fuzz"))
