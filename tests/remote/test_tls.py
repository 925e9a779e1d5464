"""TLS to an upstream etcd: server verification, the client certificate, and neither where it is disabled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import trustme

from tests.certificates import write_authority, write_pair
from tests.client import Client

if TYPE_CHECKING:
    from pathlib import Path

    from tests.remote.etcd_clusters import Etcds


@dataclass(frozen=True, slots=True)
class Files:
    ca: str
    cert: str
    key: str
    others: str  # another CA


@pytest.fixture
def files(tmp_path: Path) -> Files:
    authority = trustme.CA()
    return Files(
        write_authority(tmp_path, authority),
        *write_pair(tmp_path, authority),
        write_authority(tmp_path, trustme.CA(), "others"),
    )


def start_etcd(etcds: Etcds, files: Files) -> str:
    """Starts an etcd that requires client certificates."""
    flags = [f"--cert-file={files.cert}", f"--key-file={files.key}"]
    flags += ["--client-cert-auth", f"--trusted-ca-file={files.ca}"]
    return f"https://{etcds.etcd(*flags, scheme='https').address}"


@pytest.mark.parametrize("checked", [True, False], ids=["ca-file", "skip-verify"])
def test_both_sides_show_their_certificates(etcds: Etcds, files: Files, checked: bool) -> None:
    endpoint = start_etcd(etcds, files)
    ours = (f"--cert-file={files.cert}", f"--key-file={files.key}")
    server = etcds.kine(endpoint, *ours, f"--ca-file={files.ca}" if checked else "--skip-verify")

    with Client(server.address) as client:
        value = bytes(1_000_000)
        client.put(b"k", value)
        assert client.get(b"k").value == value  # type: ignore[union-attr]


def test_etcd_of_another_authority_is_not_spoken_to(etcds: Etcds, files: Files) -> None:
    endpoint = start_etcd(etcds, files)
    ours = (f"--cert-file={files.cert}", f"--key-file={files.key}")

    said = etcds.waiting_kine(endpoint, *ours, f"--ca-file={files.others}")

    assert "certificate" in said.lower()
