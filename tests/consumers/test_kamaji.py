"""Kamaji: an init container copies certificates with the image's shell; /bin/kine connects with them."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import trustme

from tests.client import Client
from tests.databases import postgres
from tests.executable import BUSYBOX, Mount, Root, address, empty_root, executable, missing

pytestmark = [
    pytest.mark.engines,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        bool(missing()) or os.geteuid() != 0 or not BUSYBOX.exists() or bool(postgres.missing()),
        reason="needs root, busybox-static, PostgreSQL, and what builds the executable",
    ),
]
SCRIPT = Path(__file__).parents[2] / "release" / "image.sh"


@pytest.fixture
def image() -> Iterator[Root]:
    with tempfile.TemporaryDirectory(prefix="kine-", dir="/var/tmp") as path, empty_root(Path(path)) as root:
        subprocess.run(["sh", SCRIPT, path, executable()], check=True)
        for name in ("/proc", "/ro", "/certs", "/uds"):
            root.directory(name, owner=65534)
        yield root


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def database(authority: trustme.CA) -> Iterator[postgres.Postgres]:
    """Lets in over TLS with a client's certificate only."""
    folder = Path(tempfile.mkdtemp(prefix="kine-certs-", dir="/tmp"))
    issued = authority.issue_cert("127.0.0.1")
    (folder / "cert.pem").write_bytes(issued.cert_chain_pems[0].bytes())
    (folder / "key.pem").write_bytes(issued.private_key_pem.bytes())
    (folder / "ca.pem").write_bytes(authority.cert_pem.bytes())
    (folder / "hba").write_text("hostssl all all 127.0.0.1/32 scram-sha-256 clientcert=verify-ca\n")
    for path in (folder, *folder.iterdir()):
        shutil.chown(path, "postgres", "postgres")
        path.chmod(0o700 if path == folder else 0o600)
    server = postgres.Postgres()
    with server.admin() as admin:
        for name, value in (("cert", "cert.pem"), ("key", "key.pem"), ("ca", "ca.pem")):
            admin.execute(f"ALTER SYSTEM SET ssl_{name}_file = '{folder / value}'")
        admin.execute("ALTER SYSTEM SET ssl = on")
        admin.execute(f"ALTER SYSTEM SET hba_file = '{folder / 'hba'}'")
    server.server.stop()
    server.server.answers = lambda: postgres.answers_on(server.port)
    server.server.start()
    yield server
    server.stop()
    shutil.rmtree(folder)


def test_init_container_and_server(image: Root, database: postgres.Postgres, authority: trustme.CA) -> None:
    issued = authority.issue_cert("client")
    given = image.path / "ro"
    (given / "ca.crt").write_bytes(authority.cert_pem.bytes())
    (given / "server.crt").write_bytes(issued.cert_chain_pems[0].bytes())
    (given / "server.key").write_bytes(issued.private_key_pem.bytes())
    for path in given.iterdir():
        path.chmod(0o644)
    code, _, errors = image.run(
        ["sh", "-c", "cp /ro/*.* /certs && chmod -R 600 /certs/*.*"], environment={"PATH": "/bin"}
    )
    assert (code, errors) == (0, "")

    endpoint = f"postgres://postgres:secret@127.0.0.1:{database.port}/tenant"
    kine = image.start(
        [
            "/bin/kine",
            "--listen-address=unix:///uds/kine",
            f"--endpoint={endpoint}",
            "--ca-file=/certs/ca.crt",
            "--cert-file=/certs/server.crt",
            "--key-file=/certs/server.key",
            "--metrics-bind-address=127.0.0.1:0",
        ],
        mounts=[Mount("proc", "/proc")],
    )
    address(kine)
    with Client(f"unix://{image.path}/uds/kine") as client:
        client.put(b"/registry/a", b"1")
    kine.terminate()
    assert kine.wait(60) == 0
    with pytest.raises(psycopg.OperationalError):
        database.admin()
