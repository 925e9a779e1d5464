"""The examples for vCluster, checked by rules from its source code and with its client's calls to kine."""

from __future__ import annotations

import json
import os
from pathlib import Path, PurePosixPath
from typing import Any

import grpc
import jsonschema
import pytest
import trustme
import yaml

from kine.config import FLAGS, settings
from tests.certificates import mutual_tls_flags, write_authority, write_pair
from tests.client import Client
from tests.servers.kine import start_kine

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = ("vcluster.yaml", "vcluster-database.yaml")
# The chart's values.schema.json, if it is available.
SCHEMA = os.environ.get("KINE_TEST_VCLUSTER_SCHEMA", "")


def values(name: str) -> Any:
    return yaml.safe_load((EXAMPLES / name).read_text())["controlPlane"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.skipif(
    not SCHEMA,
    reason="KINE_TEST_VCLUSTER_SCHEMA does not name loft-sh/vcluster's chart/values.schema.json",
)
def test_values_are_what_the_chart_takes(name: str) -> None:
    jsonschema.validate(yaml.safe_load((EXAMPLES / name).read_text()), json.loads(Path(SCHEMA).read_text()))


@pytest.mark.parametrize("name", NAMES)
def test_one_store_is_enabled_and_its_files_are_mounted(name: str) -> None:
    stores = values(name)["backingStore"]
    enabled = [one for kind in stores.values() for one in kind.values() if one.get("enabled")]
    assert len(enabled) == 1
    named = {**enabled[0], **enabled[0].get("tls", {})}
    files = [PurePosixPath(value) for key, value in named.items() if key.endswith("File")]
    persistence = values(name)["statefulSet"]["persistence"]
    mounts = {one["mountPath"]: one["name"] for one in persistence["addVolumeMounts"]}
    assert files
    assert {str(file.parent) for file in files} == set(mounts)
    assert {one["name"] for one in persistence["addVolumes"]} == set(mounts.values())


def test_external_etcd_has_all_that_its_https_needs() -> None:
    """vCluster prepends https:// to the endpoint, and passes the three files to the API server."""
    external = values("vcluster.yaml")["backingStore"]["etcd"]["external"]

    assert "://" not in external["endpoint"]
    assert set(external["tls"]) == {"caFile", "certFile", "keyFile"}


def test_kine_lets_in_who_has_the_files_only(tmp_path: Path) -> None:
    authority = trustme.CA()
    ca, (cert, key) = write_authority(tmp_path, authority), write_pair(tmp_path, authority)
    server = start_kine(
        f"sqlite://{tmp_path / 'state.db'}",
        "http2",
        tmp_path,
        flags=mutual_tls_flags(ca, cert, key),
    )
    files = [Path(path).read_bytes() for path in (ca, key, cert)]

    # vCluster waits for this before it starts the API server.
    with Client(server.address, grpc.ssl_channel_credentials(*files)) as client:
        members = client.members().members
    with Client(server.address) as plain, pytest.raises(grpc.RpcError):
        plain.members()

    assert server.stop() == 0
    assert [url for member in members for url in member.clientURLs] == [f"https://{server.address}"]


def test_database_is_passed_as_flags_kine_has() -> None:
    external = values("vcluster-database.yaml")["backingStore"]["database"]["external"]
    passed = {"endpoint": external["dataSource"], "identity_provider": external["identityProvider"]}
    passed["ca_file"] = external["caFile"]
    names = {flag.name: flag.field for flag in FLAGS}
    for argument in external["extraArgs"]:
        name, equals, value = argument.removeprefix("--").partition("=")
        assert equals
        assert name not in ("listen-address", "metrics-bind-address")  # vCluster connects to the defaults
        passed[names[name]] = value

    chosen = settings(passed, {})

    assert chosen.identity_provider == "aws"
