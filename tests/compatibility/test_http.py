"""Plain HTTP on the client port, as etcd serves it for probes, metrics scrapers and kubeadm."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import trustme

from tests.certificates import write_authority, write_pair
from tests.client import Client
from tests.servers.kine import start_kine

if TYPE_CHECKING:
    from tests.remote.etcd_clusters import Etcds
    from tests.servers.process import Instance

pytestmark = [
    pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed"),
    pytest.mark.xdist_group("plain http"),  # its servers are started once
]
PROTOCOLS = ("--http1.1", "--http2-prior-knowledge")


class Asked:
    """A server, and the options with which curl reaches it."""

    def __init__(self, url: str, *options: str) -> None:
        self.url = url
        self.options = options

    def get(self, path: str, *options: str) -> tuple[int, str, str]:
        """Status, content type and body."""
        shown = "\n%{http_code} %{content_type}"
        command = ["curl", "-sS", "--max-time", "60", "-w", shown, *self.options, *options, self.url + path]
        told = subprocess.run(command, capture_output=True, text=True)
        assert told.returncode == 0, told.stderr
        body, _, last = told.stdout.rpartition("\n")
        status, _, content_type = last.partition(" ")
        return int(status), content_type, body


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    running = start_kine("memory://", "http2", tmp_path_factory.mktemp("plain"))
    yield running
    running.stop()


@pytest.fixture(scope="module", params=[*PROTOCOLS, "tls --http1.1", "tls --http2"])
def asked(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, server: Instance
) -> Iterator[Asked]:
    if not request.param.startswith("tls"):
        yield Asked(f"http://{server.address}", request.param)
        return
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    cert, key = write_pair(folder, authority)
    flags = (f"--server-cert-file={cert}", f"--server-key-file={key}")
    secure = start_kine("memory://", "http2", folder, flags=flags)
    ca = write_authority(folder, authority)
    yield Asked(f"https://{secure.address}", "--cacert", ca, request.param.split()[1])
    secure.stop()


def test_version_is_etcds(asked: Asked) -> None:
    status, content_type, body = asked.get("/version")

    assert (status, content_type) == (200, "application/json")
    assert body == '{"etcdserver":"3.6.11","etcdcluster":"3.6.0","storage":"3.6.0"}'


def test_health_is_etcds(asked: Asked) -> None:
    status, content_type, body = asked.get("/health")

    assert (status, content_type) == (200, "application/json")
    assert json.loads(body) == {"health": "true", "reason": ""}


@pytest.mark.parametrize("path", ["/readyz", "/livez", "/healthz", "/readyz?verbose"])
def test_probes_are_answered(asked: Asked, path: str) -> None:
    assert asked.get(path)[::2] == (200, "ok\n")


def test_metrics_are_whole(asked: Asked) -> None:
    status, content_type, body = asked.get("/metrics")

    assert status == 200
    assert content_type.startswith("text/plain; version=")
    assert "kine_compact_total" in body


def test_accept_chooses_the_form_of_the_metrics(asked: Asked) -> None:
    _, content_type, body = asked.get("/metrics", "-H", "Accept: application/openmetrics-text")

    assert content_type.startswith("application/openmetrics-text")
    assert body.rstrip().endswith("# EOF")


def test_head_has_no_body(asked: Asked) -> None:
    assert asked.get("/readyz", "--head", "-o", "/dev/null")[0] == 200


def test_other_paths_are_not_found(asked: Asked) -> None:
    status, _, body = asked.get("/v2/keys")

    assert status == 404
    assert "/version" in body


def test_other_methods_are_refused(asked: Asked) -> None:
    assert asked.get("/version", "-X", "DELETE")[0] == 405


def test_pages_and_calls_share_a_port(server: Instance) -> None:
    plain = Asked(f"http://{server.address}", PROTOCOLS[1])
    with Client(server.address) as client, ThreadPoolExecutor(4) as pool:
        pages = [pool.submit(plain.get, "/metrics") for _ in range(8)]
        for number in range(50):
            client.put(b"/shared", b"%d" % number)

        assert {page.result()[0] for page in pages} == {200}
        assert client.get(b"/shared").value == b"49"  # type: ignore[union-attr]


def test_version_before_an_etcd_is_the_etcds(etcds: Etcds) -> None:
    etcd = etcds.etcd()
    before = etcds.kine(f"http://{etcd.address}")
    due = Asked(f"http://{etcd.address}").get("/version")

    for protocol in PROTOCOLS:
        assert Asked(f"http://{before.address}", protocol).get("/version") == due
    assert json.loads(due[2])["etcdserver"]


def test_version_of_an_etcd_that_is_gone_is_unavailable(etcds: Etcds) -> None:
    etcd = etcds.etcd()
    before = etcds.kine(f"http://{etcd.address}")
    etcd.kill()

    status, _, body = Asked(f"http://{before.address}").get("/version")

    assert status == 503
    assert "etcdserver: " in body
