"""Kamaji: an init container copies certificates with the image's shell; /bin/kine connects with them.

As in Kamaji's buildKine, for each of its data stores but etcd; its values come from a Secret.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nats
import psycopg
import pymysql
import pytest
import trustme

from tests.client import Client
from tests.consumers.conftest import IMAGE_TESTS
from tests.databases import mysql, postgres
from tests.databases import nats as nats_server
from tests.databases.process import unprivileged
from tests.executable import Mount, Root, address

pytestmark = IMAGE_TESTS
TENANT = "default_tenant"  # the name of the user and of the schema


@dataclass(frozen=True, slots=True)
class Store:
    """A server that requires a client certificate from its authority; `enter` connects without one."""

    endpoint: str
    enter: Callable[[], object]
    refusal: type[Exception]
    stop: Callable[[], None]


@pytest.fixture
def image(image: Root) -> Root:
    for name in ("/proc", "/kine", "/certs", "/uds"):
        image.directory(name, owner=65534)
    return image


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(params=["postgres", "mysql", "nats"])
def store(request: pytest.FixtureRequest, authority: trustme.CA) -> Iterator[Store]:
    module = {"postgres": postgres, "mysql": mysql, "nats": nats_server}[request.param]
    if reason := module.missing():
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="kine-certs-", dir="/tmp"))
    issued = authority.issue_cert("127.0.0.1")
    (folder / "cert.pem").write_bytes(issued.cert_chain_pems[0].bytes())
    (folder / "key.pem").write_bytes(issued.private_key_pem.bytes())
    (folder / "ca.pem").write_bytes(authority.cert_pem.bytes())
    owner = unprivileged(request.param)
    for path in (folder, *folder.iterdir()):
        shutil.chown(path, owner or os.getuid())
        path.chmod(0o700 if path == folder else 0o600)
    made = {"postgres": on_postgres, "mysql": on_mysql, "nats": on_nats}[request.param](folder)
    yield made
    made.stop()
    shutil.rmtree(folder)


def on_postgres(folder: Path) -> Store:
    rules = folder / "hba"
    rules.write_text("hostssl all all 127.0.0.1/32 scram-sha-256 clientcert=verify-ca\n")
    shutil.chown(rules, "postgres")
    server = postgres.Postgres()
    with server.admin() as admin:
        admin.execute(f"CREATE ROLE {TENANT} LOGIN PASSWORD 'secret'")
        admin.execute(f"CREATE DATABASE {TENANT} OWNER {TENANT}")
        for name, value in (("cert", "cert.pem"), ("key", "key.pem"), ("ca", "ca.pem")):
            admin.execute(f"ALTER SYSTEM SET ssl_{name}_file = '{folder / value}'")
        admin.execute("ALTER SYSTEM SET ssl = on")
        admin.execute(f"ALTER SYSTEM SET hba_file = '{rules}'")
    server.server.stop()
    server.server.answers = lambda: postgres.answers_on(server.port)
    server.server.start()
    endpoint = f"postgres://{TENANT}:secret@127.0.0.1:{server.port}/{TENANT}"
    return Store(endpoint, server.admin, psycopg.OperationalError, server.stop)


def on_mysql(folder: Path) -> Store:
    server = mysql.Mysql(
        *(f"ssl-{name}={folder / value}" for name, value in (("cert", "cert.pem"), ("key", "key.pem"))),
        f"ssl-ca={folder / 'ca.pem'}",
    )
    with server.admin() as admin, admin.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {TENANT}")
        cursor.execute(f"CREATE USER {TENANT}@'%' IDENTIFIED BY 'secret' REQUIRE X509")
        cursor.execute(f"GRANT ALL PRIVILEGES ON {TENANT}.* TO {TENANT}@'%'")

    def enter() -> None:
        where = {"host": "127.0.0.1", "port": server.port, "ssl_ca": str(folder / "ca.pem")}
        pymysql.connect(user=TENANT, password="secret", database=TENANT, **where)  # type: ignore[call-overload]

    endpoint = f"mysql://{TENANT}:secret@tcp(127.0.0.1:{server.port})/{TENANT}"
    return Store(endpoint, enter, pymysql.err.OperationalError, server.stop)


def on_nats(folder: Path) -> Store:
    files = ", ".join(f'{name}_file: "{folder / name}.pem"' for name in ("cert", "key", "ca"))
    server = nats_server.Nats(
        1,
        f"tls {{ {files}, verify: true }}",
        f"authorization {{ user: {TENANT}, password: secret }}",
    )
    url = f"nats://{TENANT}:secret@127.0.0.1:{server.port}"

    def enter() -> None:
        asyncio.run(_enter_nats(url, ssl.create_default_context(cafile=folder / "ca.pem")))

    return Store(f"{url}?bucket={TENANT}&noEmbed", enter, nats.errors.Error, server.stop)


async def _enter_nats(url: str, tls: ssl.SSLContext) -> None:
    """Connects to NATS. Raises nats.errors.Error when refused."""
    client = nats.NATS()
    try:
        await client.connect([url], tls=tls, allow_reconnect=False, connect_timeout=10)
        await client.flush(10)
    except OSError as error:  # the server closes the connection during the handshake
        raise nats.errors.Error(str(error)) from error


def test_init_container_and_server(image: Root, store: Store, authority: trustme.CA) -> None:
    issued = authority.issue_cert("client")
    given = image.path / "kine"
    (given / "ca.crt").write_bytes(authority.cert_pem.bytes())
    (given / "server.crt").write_bytes(issued.cert_chain_pems[0].bytes())
    (given / "server.key").write_bytes(issued.private_key_pem.bytes())
    for path in given.iterdir():
        path.chmod(0o644)
    code, _, errors = image.run(
        ["sh", "-c", "cp /kine/*.* /certs && chmod -R 600 /certs/*.*"], environment={"PATH": "/bin"}
    )
    assert (code, errors) == (0, "")

    kine = image.start(
        [
            "/bin/kine",
            "--ca-file=/certs/ca.crt",
            "--cert-file=/certs/server.crt",
            f"--endpoint={store.endpoint}",
            "--key-file=/certs/server.key",
            "--listen-address=unix:///uds/kine",
            "--metrics-bind-address=127.0.0.1:0",  # not Kamaji's, because tests run in parallel
        ],
        environment={"GODEBUG": "x509ignoreCN=0", "DB_USER": TENANT, "DB_SCHEMA": TENANT},
        mounts=[Mount("proc", "/proc")],
    )
    address(kine)
    with Client(f"unix://{image.path}/uds/kine") as client:
        client.put(b"/registry/a", b"1")
        assert client.range(b"/registry/a").kvs[0].value == b"1"
    kine.terminate()
    assert kine.wait(60) == 0
    with pytest.raises(store.refusal):
        store.enter()
