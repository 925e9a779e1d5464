"""The examples name what exists: metrics of a running server, variables kine reads, paths it serves."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.databases.process import free_port
from tests.servers.kine import start_kine

EXAMPLES = Path(__file__).parents[2] / "examples"
METRIC = re.compile(r"\b((?:kine|grpc_server|process)_\w+)(?:\{([^}]*)\})?")
GIVEN_BY_PROMETHEUS = {"job", "instance"}
OTHERS = {"up", "node_filesystem_avail_bytes", "kubelet_volume_stats_available_bytes"}  # not kine's


def expressions() -> list[str]:
    rules = yaml.safe_load((EXAMPLES / "alerts.yaml").read_text())
    board = json.loads((EXAMPLES / "dashboard.json").read_text())
    found = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    found += [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    return found + [one["query"]["query"] for one in board["templating"]["list"] if one["type"] == "query"]


def manifests() -> list[dict[str, Any]]:
    return [
        document
        for path in sorted((EXAMPLES / "kubernetes").glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
    ]


def pods() -> list[dict[str, Any]]:
    return [one["spec"]["template"] for one in manifests() if "template" in one["spec"]]


@pytest.fixture(scope="module")
def metrics_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    address = f"127.0.0.1:{free_port()}"
    directory = tmp_path_factory.mktemp("server")
    flags = (f"--metrics-bind-address={address}",)
    server = start_kine("sqlite://state.db", "http2", directory, flags=flags)
    try:
        yield f"http://{address}"
    finally:
        server.stop()


@pytest.fixture(scope="module")
def labels(metrics_url: str) -> dict[str, set[str]]:
    """The labels of each metric of a server just after its start, by name."""
    with urllib.request.urlopen(f"{metrics_url}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    found: dict[str, set[str]] = {"kine_identity_expiry_seconds": set()}  # only with token authentication
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


@pytest.mark.parametrize("expression", expressions())
def test_expression_asks_for_what_a_server_has(expression: str, labels: dict[str, set[str]]) -> None:
    asked = METRIC.findall(expression)
    names = {name for name, _ in asked}

    assert names - labels.keys() == set()
    assert asked or expression.partition("{")[0] in OTHERS
    for name, selector in asked:
        selected = set(re.findall(r"(\w+)(?:=~|!=|!~|=)", selector))
        assert selected - labels[name] <= GIVEN_BY_PROMETHEUS
    grouped = {name for group in re.findall(r"by \(([^)]*)\)", expression) for name in group.split(", ")}
    assert grouped - set().union(*(labels[name] for name in names)) <= GIVEN_BY_PROMETHEUS


def test_alerts_that_the_manual_names_are_there() -> None:
    rules = yaml.safe_load((EXAMPLES / "alerts.yaml").read_text())
    there = [rule["alert"] for group in rules["groups"] for rule in group["rules"]]
    named = set(re.findall(r"`(Kine\w+)`", (EXAMPLES.parent / "docs" / "operations.md").read_text()))

    assert {"KineWalGrows", "KineDiskFull"} <= named <= set(there)
    assert len(there) == len(set(there))


def test_every_metric_of_kine_is_on_the_dashboard(labels: dict[str, set[str]]) -> None:
    shown = (EXAMPLES / "dashboard.json").read_text()
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in labels if name.startswith("kine_")}
    assert {name for name in families if name not in shown} == set()


@pytest.mark.parametrize("pod", pods(), ids=["postgres", "sqlite"])
def test_probes_are_answered(pod: dict[str, Any], metrics_url: str) -> None:
    [container] = pod["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"etcd": 2379, "metrics": 8080}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] == "metrics"
        path = container[probe]["httpGet"]["path"]
        with urllib.request.urlopen(f"{metrics_url}{path}", timeout=30) as answer:
            assert answer.status == 200


@pytest.mark.parametrize("manifest", manifests(), ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
def test_manifest_is_what_kubernetes_takes(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_selectors_find_the_pods_and_volumes_are_there() -> None:
    for one in manifests():
        selector = one["spec"]["selector"]
        wanted = selector.get("matchLabels", selector)
        assert all(wanted.items() <= pod["metadata"]["labels"].items() for pod in pods())
    for one in manifests():
        if "template" in one["spec"]:
            pod = one["spec"]["template"]["spec"]
            claims = [claim["metadata"]["name"] for claim in one["spec"].get("volumeClaimTemplates", ())]
            mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
            assert mounted == {volume["name"] for volume in pod["volumes"]} | set(claims)


def test_variables_are_ones_kine_reads() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "kine", "--help"], capture_output=True, text=True, check=True
    ).stdout
    text = "".join(path.read_text() for path in EXAMPLES.rglob("*") if path.is_file())
    used = set(re.findall(r"\bKINE_[A-Z_]+[A-Z]\b", text)) - {"KINE_NAME"}
    assert used
    assert used - set(re.findall(r"KINE_[A-Z_]+[A-Z]", said)) == set()


def test_readme_tells_of_every_example() -> None:
    told = set(re.findall(r"\]\(([\w./-]+)\)", (EXAMPLES / "README.md").read_text()))
    there = {str(path.relative_to(EXAMPLES)) for path in EXAMPLES.rglob("*.*") if path.is_file()}
    assert there - {"README.md"} == told - {"../docs/operations.md"}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_unit_is_well_formed(tmp_path: Path) -> None:
    text = (EXAMPLES / "kine.service").read_text().replace("/usr/local/bin/kine", "/bin/true")
    (tmp_path / "kine.service").write_text(text)
    subprocess.run(["systemd-analyze", "verify", "--man=no", tmp_path / "kine.service"], check=True)
