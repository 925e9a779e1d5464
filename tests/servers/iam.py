"""kine on PostgreSQL with RDS IAM tokens, each checked by the gate as AWS would."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tests.certificates import serving
from tests.databases import postgres
from tests.databases.process import directory as new_directory
from tests.identity import sigv4
from tests.identity.postgres_password_gate import Gate
from tests.servers import Backend, Capabilities, text_without_nul
from tests.servers.kerberos import SUBSET
from tests.servers.kine import start_kine

if TYPE_CHECKING:
    from tests.servers.process import Instance

USER = "kine_app"
REGION = "eu-central-1"

_databases: dict[Path, str] = {}


@dataclass(frozen=True, slots=True)
class Checked:
    server: postgres.Postgres
    gate: Gate
    ca_file: Path


@cache
def checked() -> Checked:
    server = postgres.start_trusting(USER)
    folder = new_directory("iam", None)
    context = serving(folder)

    def judge(user: str, password: str) -> bool:
        now = datetime.now(UTC)
        return user == USER and sigv4.good(password, "127.0.0.1", gate.port, user, REGION, now)

    gate = Gate(server.port, context, judge)
    gate.__enter__()  # for the whole run
    return Checked(server, gate, folder / "ca.pem")


def start(
    directory: Path,
    *,
    durable: bool = False,
    progress_interval: float = 0,
    flags: tuple[str, ...] = (),
) -> Instance:
    behind = checked()
    database = _databases.setdefault(directory, behind.server.new_database())
    return start_kine(
        f"postgres://{USER}@127.0.0.1:{behind.gate.port}/{database}",
        "http2",
        directory,
        progress_interval=progress_interval,
        flags=("--identity-provider=aws", f"--ca-file={behind.ca_file}", *flags),
        environment={
            "AWS_ACCESS_KEY_ID": sigv4.ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": sigv4.SECRET_KEY,
            "AWS_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        },
    )


BACKENDS = [
    Backend(
        kind="postgres-iam",
        transport="http2",
        capabilities=Capabilities(holds_key=text_without_nul, holds_long_keys=False),
        missing=postgres.missing,
        start=start,
        subset=SUBSET,
    )
]
