"""MariaDB's GSSAPI plugin, which neither this driver nor Go kine supports: the start fails and names it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.databases import kdc, mysql
from tests.databases.process import unprivileged
from tests.servers.kine import start_kine
from tests.servers.process import StartError

PLUGINS = Path(os.environ.get("KINE_TEST_MARIADB_PLUGINS", "/usr/lib/mysql/plugin"))
PLUGIN = PLUGINS / "auth_gssapi.so"

pytestmark = [
    pytest.mark.skipif(
        bool(mysql.missing() or kdc.missing()), reason=mysql.missing() or kdc.missing() or "-"
    ),
    pytest.mark.skipif(
        not PLUGIN.exists(), reason="no auth_gssapi.so (apt-get install mariadb-plugin-gssapi-server)"
    ),
    pytest.mark.engines,
]


def test_account_that_logs_in_by_kerberos_ends_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    realm = kdc.Kdc()
    realm.add("mariadb/localhost")
    keytab = realm.keytab("mariadb/localhost", realm.directory / "server.keytab")
    if user := unprivileged("mysql"):
        shutil.chown(keytab, user)
    server = mysql.Mysql(
        f"plugin-dir={PLUGINS}",
        f"plugin-load-add={PLUGIN.name}",
        f"gssapi-keytab-path={keytab}",
        "gssapi-principal-name=mariadb/localhost@KINE.TEST",
        environment={"KRB5_CONFIG": str(realm.config)},
    )
    try:
        with server.admin() as admin, admin.cursor() as cursor:
            cursor.execute("CREATE USER kine@'127.0.0.1' IDENTIFIED VIA gssapi USING 'kine@KINE.TEST'")
            cursor.execute("GRANT ALL ON *.* TO kine@'127.0.0.1'")
        with pytest.raises(StartError, match=r"exit code 1.*\n.*auth_gssapi_client.*choose for the user"):
            start_kine(f"mysql://kine@tcp(127.0.0.1:{server.port})/kine", "http2", tmp_path)
    finally:
        server.stop()
        realm.stop()
