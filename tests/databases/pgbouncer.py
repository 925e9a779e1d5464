"""PgBouncer in transaction mode, in front of a PostgreSQL."""

from __future__ import annotations

import shutil

from tests.databases.postgres import Postgres
from tests.databases.postgres import missing as postgres_missing
from tests.databases.process import DatabaseServer, answers_on, directory, free_port, unprivileged

_PROGRAM = shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin") or ""
# Few server connections, so that transactions of one client meet sessions that another has used.
_SETTINGS = """\
[databases]
* = host=127.0.0.1 port={target}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {users}
pool_mode = transaction
default_pool_size = 4
max_client_conn = 200
server_login_retry = 0.1
"""


def missing() -> str:
    return postgres_missing() or ("" if _PROGRAM else "no pgbouncer (bash tests/install.sh)")


class PgBouncer:
    def __init__(self, target: Postgres) -> None:
        user = unprivileged("postgres")
        place = directory("pgbouncer", user)
        self.port = free_port()
        users = place / "users"
        users.write_text('"postgres" "secret"\n')
        settings = place / "settings"
        settings.write_text(_SETTINGS.format(target=target.port, port=self.port, users=users))
        self.server = DatabaseServer(
            [_PROGRAM, "-q", str(settings)], user, place / "log", lambda: answers_on(self.port)
        )
        self.server.start()
