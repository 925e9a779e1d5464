"""Replay of the fuzzing corpora: every kept input through its target."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"


@pytest.mark.parametrize("name", TARGETS)
def test_corpus(name: str) -> None:
    files = sorted((CORPUS / name).iterdir())
    assert files, "an empty corpus shows nothing: python -m tests.fuzz"
    for file in files:
        TARGETS[name](file.read_bytes())
