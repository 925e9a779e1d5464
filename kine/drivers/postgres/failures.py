"""PostgreSQL's errors, classified by SQLSTATE."""

from __future__ import annotations

import re
from collections.abc import Mapping

import psycopg

from kine.drivers.sql.failures import Kind, OutOfIdsError, StatementError

_KINDS = {
    "23505": Kind.CONFLICT,
    "22012": Kind.REUSED,  # division_by_zero: see `statements._NEW_ID`
    "40001": Kind.AGAIN,  # serialization_failure
    "40P01": Kind.AGAIN,  # deadlock_detected
    "25P02": Kind.AGAIN,  # in_failed_sql_transaction: an earlier error of the same transaction was swallowed
    "26000": Kind.AGAIN,  # a prepared statement does not exist: see `FORGOTTEN`
    "42P05": Kind.AGAIN,  # a prepared statement exists already: see `FORGOTTEN`
    "25P03": Kind.AGAIN,  # idle_in_transaction_session_timeout: kine was paused, the server rolled back
    "55P03": Kind.LOCKED,
    "53100": Kind.FULL,
    "22021": Kind.KEY,  # character_not_in_repertoire: not in the database's encoding
    "22P05": Kind.KEY,
    "54000": Kind.KEY,  # index row size exceeds the maximum
    "25006": Kind.UNABLE,
    "53300": Kind.UNABLE,
    "57014": Kind.UNABLE,
    "57P03": Kind.UNABLE,
    "40003": Kind.LOST,  # statement_completion_unknown
    "57P01": Kind.LOST,  # shut down by the administrator, perhaps after the commit
    "57P02": Kind.LOST,  # another process crashed
    "57P05": Kind.LOST,
    "08006": Kind.LOST,
    "08007": Kind.LOST,
    "08003": Kind.LOST,
}
_SAID = {
    "25006": "the server takes no writes: it is a read-only replica, or default_transaction_read_only is on",
    "53300": "the server has too many connections",
    "57014": "the server cancelled the statement: statement_timeout, or an administrator",
    "53100": "the database server's disk is full",
    "54000": "this key is longer than PostgreSQL's index can hold (about 2,700 bytes)",
    "22021": "this key is not text in the database's encoding",
    "22P05": "this key is not text in the database's encoding",
}
NO_PRIVILEGE = "42501"
_OUT_OF_IDS = {"2200H", "22003"}  # the sequence's limit, the column's limit
_CORRECT = (
    "correct or remove that parameter of the endpoint, or libpq's variable for it (PGSSLMODE and the like)"
)
_SERVICE = (
    "correct service in the endpoint, PGSERVICE, or the file that has it: PGSERVICEFILE, ~/.pg_service.conf"
)
_FILES = "correct sslrootcert, sslcert and sslkey in the endpoint, or --ca-file, --cert-file and --key-file"
# Refused connections, by the text of libpq and of the server: psycopg has no SQLSTATE at that point.
# The text is more specific than the code. If it is in another language, the SQLSTATE is fetched and looked
# up in `_BY_CODE`.
_REFUSALS = tuple(
    (re.compile(words), permanent, advice)
    for words, permanent, advice in (
        ("unrecognized configuration parameter", True, _CORRECT),
        ("invalid value for parameter|cannot be changed|requires a (.* )?value", True, _CORRECT),
        ("invalid command-line argument", True, _CORRECT),  # of `options`
        ("invalid \\S+ value|invalid (integer|URI|port|connection option)|could not match", True, _CORRECT),
        ("could not parse network address", True, _CORRECT),
        ("definition of service .* not found|service file .* not found", True, _SERVICE),
        ("sslmode .*(not compiled in|may not be used)", True, _CORRECT),
        ("could not (read|load).*(certificate|private key)|private key file .* has", True, _FILES),
        ("root certificate file .* does not exist|certificate present, but not private key", True, _FILES),
        ("permission denied to set parameter", False, "remove it from the endpoint, or let the owner of the"
         " server run GRANT SET ON PARAMETER ... TO {user};"),
        ("password authentication failed", False, "correct the endpoint's user and password, or set it with"
         " ALTER ROLE ... PASSWORD"),
        ("no password supplied", False, "add the password to the endpoint: postgres://USER:PASSWORD@HOST/NAME"),
        ("role .* does not exist", False, "create the role with CREATE ROLE ... LOGIN, or name another user"),
        ("not permitted to log in", False, "run ALTER ROLE {user} LOGIN;"),
        ("permission denied for database", False, "run GRANT CONNECT ON DATABASE {database} TO {user};"),
        ("no pg_hba.conf entry.*no encryption", False, "use TLS (sslmode=require or verify-full), or allow"
         " the user in pg_hba.conf"),
        ("no pg_hba.conf entry|pg_hba.conf rejects", False, "allow the user, from this host, in pg_hba.conf"),
        ("database .* does not exist", False, "create the database, or grant the user CREATEDB"),
        ("certificate verify failed|does not match host name", False, "give the CA that signed the server's"
         " certificate (--ca-file, sslrootcert), and the name that is in it as the host"),
        ("server does not support SSL", False, "turn TLS on at the server, or leave out sslmode"),
    )
)  # fmt: skip
_BY_CODE = {
    "42704": (True, _CORRECT),
    "22023": (True, _CORRECT),
    "55P02": (True, _CORRECT),
    "42601": (True, _CORRECT),  # syntax_error: of `options`
    "42501": (
        False,
        "run GRANT CONNECT ON DATABASE {database} TO {user}; and GRANT SET ON PARAMETER ... TO"
        " {user}; for the parameters of the endpoint",
    ),
    "28P01": (False, "correct the endpoint's user and password, or set it with ALTER ROLE ... PASSWORD"),
    "28000": (False, "create the role with LOGIN, and allow it, from this host, in pg_hba.conf"),
    "3D000": (False, "create the database, or grant the user CREATEDB"),
}
# Existing connections are useless: the server's role has changed, or it is about to shut down.
TURNED = {"25006", "57P01", "57P02", "57P03"}


# A pooler has switched to another server connection, which has other prepared statements.
FORGOTTEN = {"26000", "42P05"}
OLD_PLAN = "0A000"  # a prepared statement's result type has changed with the schema


def translated(
    error: psycopg.Error,
    *,
    connecting: bool = False,
    advise: bool = True,
    code: str = "",
    user: str = "",
    database: str = "",
) -> StatementError:
    """The StatementError for an error of psycopg's.

    `code` is the SQLSTATE if `error` has none. `user` and `database`, quoted as SQL identifiers, fill in the
    statements that a message advises to run.
    """
    code = error.sqlstate or code
    if connecting:
        said = _SAID.get(code) or _reason(error)
        if not advise:
            return StatementError(Kind.AWAY, code, said)
        return _refusal(code, said, {"{user}": user or "...", "{database}": database or "..."})
    if not code:
        return StatementError(Kind.LOST, type(error).__name__, "the connection to PostgreSQL was lost")
    if code in _OUT_OF_IDS:
        return OutOfIdsError(code)
    text = _SAID.get(code) or f"PostgreSQL: {error.diag.message_primary or type(error).__name__}"
    text = f"{text} (SQLSTATE {code})"
    if code == NO_PRIVILEGE and advise:
        text += "; a restart of kine prints the GRANT statements for the rights that the user lacks"
    return StatementError(_KINDS.get(code, Kind.REFUSED), code, text)


def understood(error: psycopg.Error) -> bool:
    """Whether the error has a SQLSTATE or a text that `_REFUSALS` knows."""
    said = _reason(error)
    return bool(error.sqlstate) or any(words.search(said) for words, _, _ in _REFUSALS)


def _refusal(code: str, text: str, names: Mapping[str, str]) -> StatementError:
    for words, permanent, advice in _REFUSALS:
        if words.search(text):
            return StatementError(Kind.AWAY, code, f"{text}; {_filled(advice, names)}", permanent=permanent)
    if code in _BY_CODE:
        permanent, advice = _BY_CODE[code]
        said = f"{text} (SQLSTATE {code}); {_filled(advice, names)}"
        return StatementError(Kind.AWAY, code, said, permanent=permanent)
    return StatementError(Kind.AWAY, code, text)


def _filled(advice: str, names: Mapping[str, str]) -> str:
    for place, name in names.items():
        advice = advice.replace(place, name)
    return advice


def _reason(error: psycopg.Error) -> str:
    """libpq's text on a failed connection, joined to one line: hosts, ports and users, no passwords."""
    lines = [line.strip() for line in str(error).splitlines()]
    return "; ".join(line for line in lines if line)[:500] or type(error).__name__
