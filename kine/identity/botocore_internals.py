"""Private attributes of botocore that kine uses, all in one place.

pyproject.toml caps botocore's version, and `tests/drivers/test_library_internals.py` fails if they change.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def make_processes_by(provider: Any, make: Callable[[str], Any]) -> None:
    """Has an assume-role provider use `make(profile_name)` to create providers for a credential_process."""
    builder = getattr(provider, "_profile_provider_builder", None)
    if builder is not None:
        builder._create_process_provider = make
