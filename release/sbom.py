"""CycloneDX 1.6 document of the locked dependencies of a release: sbom.py TAG."""

from __future__ import annotations

import json
import re
import sys
import uuid
from pathlib import Path

LOCK = Path(__file__).parent / "requirements.lock"
_PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*)==([^\s;\\]+)", re.MULTILINE)


def sbom(tag: str, lock: str) -> dict[str, object]:
    """The document; the same lock file and tag give the same bytes."""
    parts = [
        {"type": "library", "name": name, "version": version, "purl": f"pkg:pypi/{name}@{version}"}
        for name, version in _PIN.findall(lock)
    ]
    serial = uuid.uuid5(uuid.NAMESPACE_URL, f"https://github.com/loft-sh/kine@{tag}\n{lock}")
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "name": "kine",
                "version": tag,
                "purl": f"pkg:github/loft-sh/kine@{tag}",
            }
        },
        "components": parts,
    }


if __name__ == "__main__":
    print(json.dumps(sbom(sys.argv[1], LOCK.read_text(encoding="utf-8")), indent=2))  # noqa: T201
