"""A server whose AWS credentials arrive late, go away and come back, and what it reports meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest

from tests.certificates import serving
from tests.client import Client
from tests.databases import mysql, postgres
from tests.databases.process import free_port
from tests.identity import aws_stub, sigv4
from tests.identity.aws_stub import Answer, Asked, Stub
from tests.identity.mysql_password_gate import MysqlGate
from tests.identity.postgres_password_gate import Gate
from tests.identity.test_aws import REGION, USER, put_until_served
from tests.identity.test_kerberos_failures import grown
from tests.servers import mysql as mysql_servers
from tests.servers.kine import ROOT, start_kine
from tests.servers.process import Instance

SECRETS = (sigv4.SECRET_KEY, "handed-to-the-pod-only-5a1b", "session-of-the-role-77c0")
PATIENCE = 60.0


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_REGION", REGION)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return monkeypatch


def judged(gate: Callable[[], Gate]) -> Callable[[str, str], bool]:
    def judge(user: str, password: str) -> bool:
        fields = sigv4.fields(password)
        due = sigv4.token(
            "127.0.0.1",
            gate().port,
            user,
            REGION,
            sigv4.signed_at(password),
            session_token=fields.get("X-Amz-Security-Token", ""),
        )
        return user == USER and fields == sigv4.fields(due)

    return judge


@pytest.fixture(params=["postgres", "mysql"])
def gate(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Gate, str]]:
    """A gate in front of a real server, and the endpoint that leads through it."""
    context: ssl.SSLContext = serving(tmp_path)
    if request.param == "postgres":
        if reason := postgres.missing():
            pytest.skip(reason)
        with (
            postgres.trusting(USER) as server,
            Gate(server.port, context, judged(lambda: found)) as found,
        ):
            yield found, f"postgres://{USER}@127.0.0.1:{found.port}/{server.new_database()}"
    else:
        if reason := mysql.missing():
            pytest.skip(reason)
        shared = mysql_servers.database_server()
        with shared.admin() as admin, admin.cursor() as cursor:
            cursor.execute(f"CREATE USER IF NOT EXISTS {USER}@'127.0.0.1'")
            cursor.execute(f"GRANT ALL ON *.* TO {USER}@'127.0.0.1'")
        with MysqlGate(shared.port, context, judged(lambda: found)) as found:
            yield found, f"mysql://{USER}@tcp(127.0.0.1:{found.port})/iam_{found.port}"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Instance]]:
    started: list[Instance] = []

    def start(endpoint: str, *flags: str, until: Callable[[str], str | None] | None = None) -> Instance:
        every = ("--identity-provider=aws", f"--ca-file={tmp_path / 'ca.pem'}", "--debug", *flags)
        started.append(start_kine(endpoint, "http2", tmp_path / "kine", flags=every, until=until))
        return started[-1]

    yield start
    for instance in started:
        instance.kill()


def pod(bare: pytest.MonkeyPatch, directory: Path, stub: Stub) -> None:
    """EKS Pod Identity: a file with a token, and an agent that returns credentials for it."""
    (directory / "pod").write_text(SECRETS[1])
    bare.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(directory / "pod"))
    bare.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{stub.address}/v1/credentials")


def agent(life: float) -> Callable[[Asked], Answer]:
    def behave(asked: Asked) -> Answer:
        if asked.headers.get("authorization") != SECRETS[1]:
            return Answer("who are you?", 401)
        return Answer(json.dumps(aws_stub.keys(life) | {"Token": SECRETS[2]}))

    return behave


def page(port: int, path: str) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        return error.read().decode()


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def put_some(client: Client) -> None:
    """Writes several times, as one of the writes needs a new connection."""
    for _ in range(3):
        client.put(b"/iam/a", b"2")


@pytest.mark.engines
def test_late_short_and_silent_credentials_from_start_to_recovery(
    bare: pytest.MonkeyPatch, gate: tuple[Gate, str], start: Callable[..., Instance], tmp_path: Path
) -> None:
    passed, endpoint = gate
    with Stub(aws_stub.always("broken", 500)) as stub:
        pod(bare, tmp_path, stub)
        port = free_port()
        # At first the provider fails.
        instance = start(
            endpoint,
            "--identity-timeout=2s",
            "--metrics-enable-profiling",
            "--datastore-connection-max-lifetime=1s",
            f"--metrics-bind-address=127.0.0.1:{port}",
            until=lambda line: line if "no AWS credentials" in line else None,
        )
        stub.behave = agent(40)
        wait_for(lambda: '"serving"' in instance.log.read_text())
        address = next(
            json.loads(line)["address"]
            for line in instance.log.read_text().splitlines()
            if '"message": "serving"' in line
        )
        with Client(address) as client:
            put_until_served(client, b"/iam/a", b"1")
            # Then it does not respond, which has no effect until the credentials have expired.
            stub.talking.clear()
            end = time.monotonic() + 8
            calls = 0
            while time.monotonic() < end:
                put_until_served(client, b"/iam/a", b"%d" % calls)
                calls += 1
            assert calls
            wait_for(lambda: "AWS credentials" in page(port, "/readyz"))
            with pytest.raises(grpc.RpcError) as failed:
                put_some(client)
            assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
            shown = page(port, "/metrics") + page(port, "/debug/pprof/profile?seconds=1")
            assert 'error_code="identity"' in shown
            # Then it responds again.
            stub.behave = agent(3600)
            stub.talking.set()
            put_until_served(client, b"/iam/a", b"3")
            wait_for(lambda: page(port, "/readyz").startswith("ok"))
            [left] = [
                float(line.split()[1])
                for line in page(port, "/metrics").splitlines()
                if line.startswith("kine_identity_expiry_seconds ")
            ]
            assert 0 < left <= 3600
        shown += Path(f"/proc/{instance.process.pid}/cmdline").read_text() + instance.log.read_text()
    assert instance.stop() == 0
    shown += instance.log.read_text()
    assert "Traceback" not in shown
    assert not [secret for secret in SECRETS if secret in shown]
    signatures = {sigv4.fields(token)["X-Amz-Signature"] for token in passed.presented}
    assert signatures
    assert not [signature for signature in signatures if signature in shown]


def test_start_that_waits_for_credentials_says_so(
    bare: pytest.MonkeyPatch, gate: tuple[Gate, str], start: Callable[..., Instance], tmp_path: Path
) -> None:
    _, endpoint = gate
    with Stub(agent(3600)) as stub:
        pod(bare, tmp_path, stub)
        stub.talking.clear()
        port = free_port()
        with ThreadPoolExecutor() as threads:
            starting = threads.submit(start, endpoint, f"--metrics-bind-address=127.0.0.1:{port}")
            assert stub.wait_for(1)
            assert page(port, "/readyz") == "waiting for AWS credentials\n"
            assert "kine_identity_expiry_seconds 0.0\n" in page(port, "/metrics")
            stub.talking.set()
            instance = starting.result()
        wait_for(lambda: page(port, "/readyz") == "ok\n")
        assert "kine_identity_expiry_seconds 0.0\n" not in page(port, "/metrics")
    assert instance.stop() == 0


# ---- in a private network namespace


AGENTS = {
    "ECS": ("169.254.170.2", {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/credentials/kine"}),
    "EKS": (
        "169.254.170.23",
        {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.23/v1/credentials",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "pod",
        },
    ),
    "EC2": ("169.254.169.254", {"AWS_EC2_METADATA_DISABLED": "false"}),
}
HOSTS = "KINE_TEST_HOSTS"  # the file that is /etc/hosts within


def within(test: str, folder: Path) -> bool:
    """Whether the test runs in a private network namespace; if not, runs it there.

    In such a namespace it may use any address and name.
    """
    if reason := postgres.missing():
        pytest.skip(reason)
    if HOSTS in os.environ:
        return True
    if os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("a network of its own needs root, unshare and ip")
    hosts = folder / "hosts"
    hosts.write_text("127.0.0.1 localhost\n")
    addresses = [f"ip addr add {address}/32 dev lo" for address, _ in AGENTS.values()]
    prepare = " && ".join([f"mount --bind {hosts} /etc/hosts", "ip link set lo up", *addresses])
    unshared = ["unshare", "-n", "-m", "sh", "-c", f'{prepare} && exec "$@"', "sh"]
    if subprocess.run([*unshared, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to make a network of its own")
    ended = subprocess.run(
        [*unshared, sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", test],
        env={**os.environ, HOSTS: str(hosts)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    return False


@pytest.mark.engines
def test_roles_of_task_pod_and_machine_are_found_at_their_services_own_addresses(
    bare: pytest.MonkeyPatch, start: Callable[..., Instance], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if not within(request.node.nodeid, tmp_path):
        return
    (tmp_path / "pod").write_text(SECRETS[1])
    with (
        postgres.trusting(USER) as server,
        Gate(server.port, serving(tmp_path), judged(lambda: gate)) as gate,
    ):
        for name, (address, variables) in AGENTS.items():
            with bare.context() as within_it, Stub(aws_stub.metadata(), (address, 80)) as stub:
                if name != "EC2":
                    stub.behave = agent(3600) if name == "EKS" else aws_stub.container()
                for variable, value in variables.items():
                    within_it.setenv(variable, str(tmp_path / "pod") if value == "pod" else value)
                given = len(gate.presented)
                instance = start(f"postgres://{USER}@127.0.0.1:{gate.port}/{server.new_database()}")
                with Client(instance.address) as client:
                    put_until_served(client, b"/iam/a", b"1")
                assert instance.stop() == 0
                assert stub.asked
                assert len(gate.presented) > given


@pytest.mark.engines
def test_connections_follow_the_name_to_another_host(
    bare: pytest.MonkeyPatch, start: Callable[..., Instance], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """An RDS failover: the name resolves elsewhere, and the old address swallows all packets."""
    if not within(request.node.nodeid, tmp_path):
        return
    name = f"db.c0ffee.{REGION}.rds.amazonaws.com"
    hosts = Path(os.environ[HOSTS])
    hosts.write_text(f"127.0.0.1 {name}\n")
    bare.setenv("AWS_ACCESS_KEY_ID", sigv4.ACCESS_KEY)
    bare.setenv("AWS_SECRET_ACCESS_KEY", sigv4.SECRET_KEY)
    context = serving(tmp_path, name)

    def judge(user: str, password: str) -> bool:
        return sigv4.good(password, name, port, user, REGION, datetime.now(UTC))

    port = 0
    with postgres.trusting(USER) as server, ExitStack() as former:
        port = former.enter_context(Gate(server.port, context, judge)).port
        instance = start(f"postgres://{USER}@{name}:{port}/{server.new_database()}?connect_timeout=2")
        with Client(instance.address) as client:
            put_until_served(client, b"/iam/a", b"1")
            with Gate(server.port, context, judge, address="127.0.0.2", port=port) as second:
                hosts.write_text(f"127.0.0.2 {name}\n")
                former.close()  # it goes on listening, and responds to no one
                put_until_served(client, b"/iam/a", b"2")
                assert client.range(b"/iam/a").kvs[0].value == b"2"
                assert second.presented
        assert instance.stop() == 0


@pytest.mark.engines
@pytest.mark.timeout(900)
def test_two_thousand_connections_leave_no_memory_behind(
    bare: pytest.MonkeyPatch, gate: tuple[Gate, str], start: Callable[..., Instance]
) -> None:
    bare.setenv("AWS_ACCESS_KEY_ID", sigv4.ACCESS_KEY)
    bare.setenv("AWS_SECRET_ACCESS_KEY", sigv4.SECRET_KEY)
    passed, endpoint = gate
    instance = start(endpoint, "--datastore-connection-max-lifetime=1ms")
    growth = grown(instance)
    print(f"grown by {growth >> 10} KiB")  # noqa: T201
    assert growth < 12 << 20  # of 6, the 2,000 revisions take 4.5
    assert len(passed.presented) > 2000
    assert datetime.now(UTC) >= sigv4.signed_at(passed.presented[-1])
