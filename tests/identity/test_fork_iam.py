"""RDS IAM: every parameter and variable of the fork, in the fork's build and in this kine.

The gates stand in front of real servers. A gate checks a token by the published rules, and records for which
host and region it is, and whether it came over TLS. A private hosts file resolves RDS' names to the gates.
"""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pytest
import trustme

from tests.certificates import write_authority, write_pair
from tests.databases import mysql, postgres
from tests.databases.process import directory, free_port
from tests.identity import aws_stub, fork_differential, sigv4
from tests.identity.aws_stub import Stub
from tests.identity.fork_differential import EXITS, NAMES, TRIES_ON, Case, Run
from tests.identity.mysql_password_gate import MysqlGate
from tests.identity.postgres_password_gate import Gate
from tests.servers import mysql as mysql_servers

pytestmark = [
    pytest.mark.skipif(bool(fork_differential.missing()), reason=fork_differential.missing() or "-"),
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("unshare") is None,
        reason="a hosts file of their own needs root, and unshare",
    ),
    pytest.mark.xdist_group("fork"),
    pytest.mark.engines,
]

USER = "kine_app"
NAMED = "db.c0ffee.ap-southeast-2.rds.amazonaws.com"
CHINESE = ("db.c0ffee.rds.cn-north-1.amazonaws.com.cn", "db.c0ffee.cn-northwest-1.rds.amazonaws.com.cn")
ISOLATED = "db.c0ffee.us-iso-east-1.rds.c2s.ic.gov"
ALIAS = "db.example.com"
HOSTS = (NAMED, *CHINESE, ISOLATED, ALIAS)

KEYS = {
    "AWS_ACCESS_KEY_ID": sigv4.ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": sigv4.SECRET_KEY,
    "AWS_REGION": "eu-central-1",
}
CA = "--ca-file={ca}"
_numbers = count(1)


def given(end: str, host: str = ALIAS, region: str = "eu-central-1", how: str = "over TLS") -> str:
    """The outcome, and where the token was sent."""
    return f"{end}; token of {region} for {host} {how}"


def at(query: str = "", *, host: str = ALIAS, user: str = f"{USER}@", port: str = "port") -> str:
    return f"postgres://{user}{host}:{{{port}}}/{{database}}?{query}"


def my(query: str = "", *, host: str = ALIAS, user: str = f"{USER}@", port: str = "mysql") -> str:
    return f"mysql://{user}tcp({host}:{{{port}}})/{{database}}?{query}"


def without(*names: str, **more: str) -> dict[str, str]:
    """The variables in `KEYS` without some, and with others."""
    return {name: value for name, value in KEYS.items() if name not in names} | more


FULL = "sslmode=verify-full&sslrootcert={ca}"
UNSET = "IAM, `sslmode` unset"
CLEAR = "IAM, `sslmode` `disable`, `allow` or `prefer`"
TLS = [
    Case("the flag's CA", at(), given("serves"), flags=(CA,)),
    Case("the flag's CA is another", at(), TRIES_ON, flags=("--ca-file={other_ca}",)),
    Case("verify-full", at(FULL), given("serves")),
    Case("verify-full by another CA", at("sslmode=verify-full&sslrootcert={other_ca}"), TRIES_ON),
    Case("verify-full by the machine's CAs", at("sslmode=verify-full"), TRIES_ON),
    Case("verify-full, another name", at(FULL, host="localhost.localdomain"), TRIES_ON),
    Case(
        "verify-ca, another name",
        at("sslmode=verify-ca&sslrootcert={ca}", host="localhost.localdomain"),
        given("serves", "localhost.localdomain"),
    ),
    Case("verify-full, a server without TLS", at(FULL, port="plain"), TRIES_ON),
    Case("require", at("sslmode=require"), given("serves")),
    Case("require, a server without TLS", at("sslmode=require", port="plain"), TRIES_ON),
    Case("unset", at(), given("serves"), TRIES_ON, UNSET),
    Case(
        "unset, a server without TLS", at(port="plain"), given("serves", how="in the clear"), TRIES_ON, UNSET
    ),
    Case(
        "the variable's require", at(), given("serves"), TRIES_ON, UNSET, environment={"PGSSLMODE": "require"}
    ),
    Case(
        "the variable's verify-full",
        at(),
        given("serves"),
        environment={"PGSSLMODE": "verify-full", "PGSSLROOTCERT": "{ca}"},
    ),
    Case("disable", at("sslmode=disable"), given("serves", how="in the clear"), EXITS, CLEAR),
    Case("allow", at("sslmode=allow"), given("serves", how="in the clear"), EXITS, CLEAR),
    Case("prefer", at("sslmode=prefer"), given("serves"), EXITS, CLEAR),
    Case(
        "prefer, a server without TLS",
        at("sslmode=prefer", port="plain"),
        given("serves", how="in the clear"),
        EXITS,
        CLEAR,
    ),
    Case("twice, the first good", at("sslmode=require&sslmode=disable"), given("serves")),
    Case("the flag and require", at("sslmode=require"), given("serves"), flags=(CA,)),
    Case("not verified", at(), given("serves"), flags=("--skip-verify",)),
    Case(
        "not verified, the flag's CA is another",
        at(),
        TRIES_ON,
        given("serves"),
        "IAM, `--skip-verify` on PostgreSQL",
        flags=("--skip-verify", "--ca-file={other_ca}"),
    ),
]
SERVERS = [
    Case("region of the host", at(FULL, host=NAMED), given("serves", NAMED, "ap-southeast-2")),
    Case(
        "region of the host alone",
        at(FULL, host=NAMED),
        given("serves", NAMED, "ap-southeast-2"),
        environment=without("AWS_REGION"),
    ),
    Case("region of the variable", at(FULL), given("serves")),
    Case(
        "region of the other variable",
        at(FULL),
        given("serves", region="us-west-2"),
        environment=without("AWS_REGION", AWS_DEFAULT_REGION="us-west-2"),
    ),
    Case(
        "region of both variables", at(FULL), given("serves"), environment={"AWS_DEFAULT_REGION": "us-west-2"}
    ),
    Case(
        "region of the profile",
        at(FULL),
        given("serves", region="us-east-1"),
        environment=without("AWS_REGION", AWS_CONFIG_FILE="{profile}"),
    ),
    Case(
        "no region",
        at(FULL),
        "tries on; a token that no server takes",
        TRIES_ON,
        "IAM, no region",
        environment=without("AWS_REGION"),
    ),
    *(
        Case(
            f"host {host}",
            at(FULL, host=host),
            given("serves", host),
            given("serves", host, region),
            "IAM, host of China",
        )
        for host, region in ((CHINESE[0], "cn-north-1"), (ISOLATED, "us-iso-east-1"))
    ),
    Case(
        f"host {CHINESE[1]}",
        at(FULL, host=CHINESE[1]),
        given("serves", CHINESE[1], "cn-northwest-1"),
    ),
    Case(
        "IPv6 literal",
        at(FULL, host="[::1]", port="port6"),
        "tries on; a token that no server takes",
        given("serves", "[::1]"),
        "IAM, IPv6 literal",
    ),
    Case(
        "upper case",
        at(FULL, host=ALIAS.upper()),
        given("serves", ALIAS.upper()),
        given("serves"),
        "IAM, upper-case host",
    ),
    Case(
        "upper case of RDS",
        at(FULL, host=NAMED.upper()),
        given("serves", NAMED.upper()),
        given("serves", NAMED, "ap-southeast-2"),
        "IAM, upper-case host",
    ),
    Case(
        "variables",
        f"postgres:///{{database}}?{FULL}",
        given("serves"),
        environment={
            "PGHOST": ALIAS,
            "PGPORT": "{port}",
            "PGUSER": USER,
        },
    ),
    Case(
        "no user",
        at(FULL, user=""),
        "tries on; a token that no server takes",
        EXITS,
        "no user in the endpoint",
    ),
    Case("password, too", at(FULL, user=f"{USER}:secret@"), given("serves")),
    Case(
        "two hosts, the first away",
        f"postgres://{USER}@{ALIAS}:{{closed}},{NAMED}:{{port}}/{{database}}?{FULL}",
        given("serves"),
        EXITS,
        "IAM, several hosts",
    ),
    Case("unknown provider", at(FULL), EXITS, flags=("--identity-provider=azure",)),
]
CREDENTIALS = [
    Case("none", at(FULL), TRIES_ON, environment=without("AWS_ACCESS_KEY_ID")),
    Case(
        "none, MySQL",
        my(),
        EXITS,
        TRIES_ON,
        "IAM, no credentials at the start, MySQL",
        flags=(CA,),
        environment=without("AWS_ACCESS_KEY_ID"),
    ),
    Case(
        "no such profile",
        at(FULL),
        EXITS,
        TRIES_ON,
        "IAM, no credentials at the start, MySQL; a profile",
        environment=without("AWS_ACCESS_KEY_ID", AWS_PROFILE="nowhere"),
    ),
    Case(
        "profile",
        at(FULL),
        given("serves"),
        environment=without("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", AWS_PROFILE="chosen"),
    ),
    Case("profile beside keys", at(FULL), given("serves"), environment=without(AWS_PROFILE="wrong")),
    Case(
        "wrong key",
        at(FULL),
        "tries on; a token that no server takes",
        environment=without(AWS_SECRET_ACCESS_KEY="wrong"),
    ),
    Case("temporary", at(FULL), given("serves"), environment=without(AWS_SESSION_TOKEN="temporary/+=")),
    Case(
        "process",
        at(FULL),
        given("serves"),
        environment=without("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", AWS_PROFILE="process"),
    ),
    Case(
        "container",
        at(FULL),
        given("serves"),
        environment=without(
            "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", AWS_CONTAINER_CREDENTIALS_FULL_URI="{container}"
        ),
    ),
    Case(
        "instance",
        at(FULL),
        given("serves"),
        environment=without(
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            AWS_EC2_METADATA_DISABLED="false",
            AWS_EC2_METADATA_SERVICE_ENDPOINT="{instance}",
        ),
    ),
    Case(
        "web identity",
        at(FULL),
        given("serves"),
        environment=without(
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            AWS_WEB_IDENTITY_TOKEN_FILE="{web}",
            AWS_ROLE_ARN="arn:aws:iam::123456789012:role/kine",
            AWS_ENDPOINT_URL_STS="{sts}",
        ),
    ),
    Case(
        "expired",
        at(FULL),
        given("serves"),
        TRIES_ON,
        "IAM, credentials that have expired",
        environment=without(
            "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", AWS_CONTAINER_CREDENTIALS_FULL_URI="{expired}"
        ),
    ),
]
WITHOUT_TLS = "IAM, MySQL without TLS"
MYSQL = [
    Case("the flag's CA", my(), given("serves"), flags=(CA,)),
    Case("another CA", my(), EXITS, TRIES_ON, "MySQL, a server that", flags=("--ca-file={other_ca}",)),
    Case("no TLS", my(), given("serves", how="in the clear"), EXITS, WITHOUT_TLS),
    Case("false", my("tls=false"), given("serves", how="in the clear"), EXITS, WITHOUT_TLS),
    Case("preferred", my("tls=preferred"), given("serves"), EXITS, WITHOUT_TLS),
    Case(
        "not verified by the flag alone",
        my(),
        given("serves", how="in the clear"),
        EXITS,
        "IAM, MySQL, `--skip-verify` alone",
        flags=("--skip-verify",),
    ),
    Case("not verified", my("tls=skip-verify"), given("serves")),
    Case("true by the machine's CAs", my("tls=true"), EXITS, TRIES_ON, "MySQL, a server that"),
    Case(
        "true and the flag's CA",
        my("tls=true"),
        EXITS,
        given("serves"),
        "MySQL, `tls=true` and `--ca-file`",
        flags=(CA,),
    ),
    Case(
        "the flags' CA and skip-verify",
        my(),
        given("serves"),
        flags=("--ca-file={other_ca}", "--skip-verify"),
    ),
    Case(
        "not verified, a certificate",
        my("tls=skip-verify"),
        given("serves"),
        given("serves", how="over TLS with a certificate"),
        "MySQL, `tls=skip-verify` and `--cert-file`",
        flags=("--cert-file={cert}", "--key-file={key}"),
    ),
    Case("region of the host", my(host=NAMED), given("serves", NAMED, "ap-southeast-2"), flags=(CA,)),
    Case(
        "upper case",
        my(host=ALIAS.upper()),
        given("serves", ALIAS.upper()),
        given("serves"),
        "IAM, upper-case host",
        flags=(CA,),
    ),
    Case("twice", my("tls=true&tls=skip-verify"), given("serves")),
    Case(
        "no user",
        my(user=""),
        "exits; a token that no server takes",
        EXITS,
        "IAM, MySQL, no user",
        flags=(CA,),
    ),
]


@dataclass(frozen=True)
class Behind:
    """A gate for each program, so that both can run concurrently."""

    gates: dict[str, tuple[Gate, ...]]
    values: dict[str, dict[str, str]]
    before: tuple[str, ...]


def _judge(user: str, password: str) -> bool:
    host, _, port = sigv4.fields(password)[""].removesuffix("/").rpartition(":")
    fields = sigv4.fields(password)
    moment = sigv4.signed_at(password)
    session = fields.get("X-Amz-Security-Token", "")
    place = {"": ""}  # with a slash at its end, or without
    due = sigv4.token(host, int(port), user, _region(fields), moment, session_token=session)
    return (
        user == USER
        and fields | place == sigv4.fields(due) | place
        and bool(_region(fields))
        and (":" not in host or host.startswith("["))
        and abs((datetime.now(UTC) - moment).total_seconds()) < sigv4.LIFETIME
    )


def _region(fields: dict[str, str]) -> str:
    return fields["X-Amz-Credential"].split("/")[2]


@pytest.fixture(scope="module")
def behind() -> Iterator[Behind]:
    if reason := postgres.missing() or mysql.missing():
        pytest.skip(reason)
    folder = directory("fork", None)
    (folder / "hosts").write_text(
        f"127.0.0.1 localhost localhost.localdomain {' '.join(HOSTS)}\n::1 localhost\n"
    )
    before = (
        "unshare", "-m", "sh", "-c", f'mount --bind {folder}/hosts /etc/hosts && exec "$@"', "sh",
    )  # fmt: skip
    if subprocess.run([*before, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1", "::1", "localhost", *HOSTS).configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_OPTIONAL
    server, shared = postgres.Postgres(), mysql_servers.database_server()
    (server.directory / "data" / "pg_hba.conf").write_text("host all all 127.0.0.1/32 trust\n")
    with server.admin() as admin:
        admin.execute("SELECT pg_reload_conf()")
        admin.execute(f"CREATE ROLE {USER} LOGIN CREATEDB")
    with shared.admin() as admin, admin.cursor() as cursor:
        cursor.execute(f"CREATE USER IF NOT EXISTS {USER}@'127.0.0.1'")
        cursor.execute(f"GRANT ALL ON *.* TO {USER}@'127.0.0.1'")
    with ExitStack() as opened:
        common = _files(folder, authority, opened)
        gates, values = {}, {}
        for name in NAMES:
            made = {
                "port": Gate(server.port, context, _judge, clear=True),
                "plain": Gate(server.port, None, _judge, clear=True),
                "port6": Gate(server.port, context, _judge, clear=True, address="::1"),
                "mysql": MysqlGate(shared.port, context, _judge, clear=True),
            }
            for gate in made.values():
                opened.enter_context(gate)
            gates[name] = tuple(made.values())
            values[name] = common | {kind: str(gate.port) for kind, gate in made.items()}
        yield Behind(gates, values, before)
    server.stop()


def _files(folder: Path, authority: trustme.CA, opened: ExitStack) -> dict[str, str]:
    """All files that the cases name, except the gates'."""
    keys = f"aws_access_key_id = {sigv4.ACCESS_KEY}\naws_secret_access_key = "
    (folder / "credentials").write_text(f"[chosen]\n{keys}{sigv4.SECRET_KEY}\n[wrong]\n{keys}wrong\n")
    (folder / "profile").write_text("[default]\nregion = us-east-1\n")
    (folder / "told").write_text(
        f'{{"Version": 1, "AccessKeyId": "{sigv4.ACCESS_KEY}", "SecretAccessKey": "{sigv4.SECRET_KEY}"}}'
    )
    (folder / "config").write_text(f"[profile process]\ncredential_process = cat {folder / 'told'}\n")
    (folder / "web").write_text("the pod's own token")
    cert, key = write_pair(folder, authority, "client")
    stubs: dict[str, aws_stub.Behaviour] = {
        "container": aws_stub.container(),
        "expired": aws_stub.container(lambda: aws_stub.keys(-3600)),
        "instance": aws_stub.metadata(),
        "sts": aws_stub.sts(),
    }
    return {
        "ca": write_authority(folder, authority),
        "other_ca": write_authority(folder, trustme.CA(), "other"),
        "closed": str(free_port()),
        "cert": cert,
        "key": key,
        "profile": str(folder / "profile"),
        "web": str(folder / "web"),
        "config": str(folder / "config"),
        "credentials": str(folder / "credentials"),
        **{name: opened.enter_context(Stub(behave)).address for name, behave in stubs.items()},
    }


def outcomes(behind: Behind, case: Case, directory: Path) -> dict[str, str]:
    number = next(_numbers)
    values = {name: {**behind.values[name], "database": f"d{number}x{at}"} for at, name in enumerate(NAMES)}
    seen = {name: [len(gate.presented) for gate in gates] for name, gates in behind.gates.items()}

    def observe(name: str, run: Run) -> str:
        told = set()
        for gate, start in zip(behind.gates[name], seen[name], strict=True):
            for password, how in list(zip(gate.presented, gate.circumstances, strict=False))[start:]:
                told.add(_described(password, encrypted=how.encrypted, certificate=how.certificate))
        return "; ".join([run.end, *sorted(told)])

    environment = {
        "AWS_CONFIG_FILE": "{config}",
        "AWS_SHARED_CREDENTIALS_FILE": "{credentials}",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
        **(case.environment if set(case.environment) & set(KEYS) else {**KEYS, **case.environment}),
    }
    given = replace(case, flags=("--identity-provider=aws", *case.flags), environment=environment)
    return fork_differential.compare(given, directory, values, observe, before=behind.before)


def _described(password: str, *, encrypted: bool, certificate: bool) -> str:
    fields = sigv4.fields(password)
    if not _judge(USER, password):
        return "a token that no server takes"
    where = fields[""].removesuffix("/").rpartition(":")[0]
    how = "over TLS" if encrypted else "in the clear"
    return f"token of {_region(fields)} for {where} {how}{' with a certificate' if certificate else ''}"


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=f"{kind}: {case.name}")
        for kind, cases in (
            ("TLS", TLS),
            ("server", SERVERS),
            ("credentials", CREDENTIALS),
            ("MySQL", MYSQL),
        )
        for case in cases
    ],
)
def test_outcome_is_the_forks_or_a_listed_one(behind: Behind, tmp_path: Path, case: Case) -> None:
    assert outcomes(behind, case, tmp_path) == case.expected()
    assert fork_differential.listed(case)


def sts_of(region: str) -> str:
    return f"sts.{region}.amazonaws.com"


@pytest.mark.parametrize(
    ("settings", "go_kine", "ours", "row"),
    [
        ({"AWS_REGION": "us-west-2"}, sts_of("us-west-2"), "", ""),
        ({"AWS_DEFAULT_REGION": "us-west-2"}, sts_of("us-west-2"), "", ""),
        ({"AWS_REGION": "us-west-2", "AWS_DEFAULT_REGION": "us-east-1"}, sts_of("us-west-2"), "", ""),
        ({"AWS_CONFIG_FILE": "{profile}"}, sts_of("us-east-1"), "", ""),
        ({}, "nobody", sts_of("ap-southeast-2"), "IAM, a role, no region but the host's"),
        (
            {"AWS_REGION": "us-west-2", "AWS_USE_FIPS_ENDPOINT": "true"},
            "sts-fips.us-west-2.amazonaws.com",
            "",
            "",
        ),
        ({"AWS_REGION": "us-west-2", "AWS_USE_DUALSTACK_ENDPOINT": "true"}, "sts.us-west-2.api.aws", "", ""),
        (
            {"AWS_REGION": "us-west-2", "AWS_STS_REGIONAL_ENDPOINTS": "legacy"},
            sts_of("us-west-2"),
            "sts.amazonaws.com",
            "IAM, `AWS_STS_REGIONAL_ENDPOINTS=legacy`",
        ),
        ({"AWS_REGION": "cn-north-1"}, "sts.cn-north-1.amazonaws.com.cn", "", ""),
    ],
)
def test_sts_is_asked_where_the_fork_asks_it(
    behind: Behind, tmp_path: Path, settings: dict[str, str], go_kine: str, ours: str, row: str
) -> None:
    environment = {
        "AWS_CONFIG_FILE": "{config}",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_WEB_IDENTITY_TOKEN_FILE": "{web}",
        "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/kine",
        "HTTPS_PROXY": "{proxy}",  # gets the name, and refuses to connect
        **settings,
    }
    flags = ("--identity-provider=aws",)
    case = Case("STS", at(FULL, host=NAMED), go_kine, ours, row, flags=flags, environment=environment)
    with ExitStack() as opened:
        stubs = {name: opened.enter_context(Stub(aws_stub.always("", 403))) for name in NAMES}
        values = {
            name: {**behind.values[name], "database": "sts", "proxy": stub.address}
            for name, stub in stubs.items()
        }

        def observe(name: str, run: Run) -> str:
            return ", ".join({asked.path.removesuffix(":443") for asked in stubs[name].asked}) or "nobody"

        assert (
            fork_differential.compare(case, tmp_path, values, observe, before=behind.before)
            == case.expected()
        )
    assert fork_differential.listed(case)
