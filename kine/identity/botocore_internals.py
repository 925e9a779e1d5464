"""What kine needs of botocore that has no public name, all in one place.

pyproject.toml caps its version, and `tests/drivers/test_library_internals.py` fails when it has changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def make_processes_by(provider: Any, make: Callable[[str], Any]) -> None:
    """Where a role is assumed by a profile's credential_process: `make` gives the provider of it."""
    builder = getattr(provider, "_profile_provider_builder", None)
    if builder is not None:
        builder._create_process_provider = make
