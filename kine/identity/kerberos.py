"""Kerberos authentication: a private credential cache for libpq, with kine's and the database's tickets.

libpq reads the cache that KRB5CCNAME names. The cache must have every ticket before the handshake, as a
handshake that asks a KDC takes as long as the KDC does. The variable applies to the whole process, so it is
set once, to a file that is replaced atomically, and a process has one such provider. The system's libkrb5
acquires the tickets. libpq may have a libkrb5 of its own, so the two share files, never a cache in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kine.identity import ccache_format
from kine.identity.base import CONNECTING, IdentityError
from kine.identity.daemon_thread import in_daemon_thread
from kine.observe import metrics

if TYPE_CHECKING:
    from kine.identity.base import Provider

log = logging.getLogger(__name__)

_LOOK = 10.0  # seconds between checks of the keytab or cache, and between attempts to renew
_MARGIN = 5.0  # seconds before expiry, a quarter of the lifetime at most, in which a ticket counts as expired
_RETRY = 1.0  # seconds between a failure and the next attempt, at least

# libkrb5 takes keys from here to renew a ticket automatically, from 30 seconds before its end, also in a
# cache that another program maintains. An empty keytab in memory prevents that without asking a KDC. It also
# avoids a leak: libpq from 16 on acquires a credential twice for a connection, 17 KB a time with a file.
_CLIENT_KEYTAB = "KRB5_CLIENT_KTNAME"
_NO_KEYTAB = "MEMORY:kine"

_EXPIRED = -1765328352
# Advice by error code (krb5.h, as libkrb5 has them), which follows the library's own text.
_ADVICE = {
    -1765328378: "the KDC does not know the principal: check the endpoint's user and realm",
    -1765328377: "the KDC does not know the database's principal SERVICE/HOST: check the endpoint's host and"
    " krbsrvname, and that the principal exists",
    -1765328360: "the keytab's key is not the KDC's: it was changed there, export the keytab again",
    -1765328203: "the keytab has no key for the principal: check the endpoint's user and realm",
    _EXPIRED: "the ticket has expired: refresh the cache",
    -1765328189: "the cache does not exist: check krb5_ccache or KRB5CCNAME, or run kinit",
    -1765328243: "the cache holds no ticket: run kinit",
    -1765328347: "the clocks of this machine and the KDC differ: check both",
    -1765328228: "check that the KDC runs and can be reached; trying again",
    -1765328230: "no KDC is known for the realm: check krb5.conf and the endpoint's user and realm",
    -1765328160: "write the user as user%40REALM, or set default_realm in krb5.conf",
    13: "this process may not read it: check owner and mode",
    2: "the file does not exist",
}


_NO_NAME = "FILE:"  # a cache without a name: as if unset
_NO_CACHE = (-1765328189, -1765328243)


@dataclass(frozen=True, slots=True)
class CredentialSource:
    """The source of tickets: a keytab, or a cache that another program keeps fresh."""

    principal: str  # user or user@REALM
    keytab: str = ""  # a path; empty: the cache
    cache: str = ""  # TYPE:NAME or a path; empty: KRB5CCNAME, else libkrb5's default
    service: str = "postgres"
    spn: str = ""  # the database's principal, if it is not service/host


def source(
    parameters: MutableMapping[str, str], environ: MutableMapping[str, str]
) -> CredentialSource | None:
    """The source that the endpoint and the environment name; None if they do not ask for Kerberos.

    Removes kine's parameters from `parameters`, and the realm from `user`. Raises ValueError.
    """
    keytab, cache = parameters.pop("krb5_keytab", None), parameters.pop("krb5_ccache", None)
    spn = parameters.pop("krbspn", "")
    if keytab is not None and cache is not None:
        raise ValueError("the endpoint sets both krb5_keytab and krb5_ccache: leave one out")
    if cache is None and not keytab:
        keytab = _from_environment(environ)
        if not keytab:
            return None
    user = parameters.get("user", "")
    role, at, realm = user.partition("@")
    if not role or (cache is None and ("@" in realm or bool(at) != bool(realm))):
        raise ValueError(
            "with Kerberos the endpoint's user is the principal: write it as user or user%40REALM before"
            " the host"
        )
    host = parameters.get("host", "")
    if not all(name and not name.startswith("/") for name in host.split(",")):
        raise ValueError(
            "with Kerberos the endpoint must name the host, as the database's principal does; the server"
            " takes Kerberos over TCP only"
        )
    parameters["user"] = role
    service = parameters.get("krbsrvname") or environ.get("PGKRBSRVNAME") or "postgres"
    if keytab:
        path = keytab.removeprefix("FILE:")
        if not path:
            raise ValueError("the endpoint's krb5_keytab names no file: write its path")
        return CredentialSource(user, keytab=path, service=service, spn=spn)
    return CredentialSource(user, cache="" if cache in (None, _NO_NAME) else cache, service=service, spn=spn)


def _from_environment(environ: MutableMapping[str, str]) -> str:
    told = environ.get("KRB5_KTNAME")
    if told is None:
        return ""
    keytab = told.removeprefix("FILE:")
    if not keytab:
        log.warning(
            "KRB5_KTNAME is set and names no file: ignoring it; set it to a keytab's path, or unset it"
        )
    return keytab


@dataclass(frozen=True, slots=True)
class _Tickets:
    made: float
    end: float
    mark: object  # the version of the keytab or cache: see `_mark`
    hosts: tuple[str, ...]

    def usable(self, now: float) -> bool:
        return now < self.end - min(_MARGIN, (self.end - self.made) / 4)

    def due(self, now: float) -> bool:
        return now >= (self.made + self.end) / 2


class Kerberos:
    """Implements `kine.identity.base.Provider`."""

    def __init__(self, source: CredentialSource, limit: float) -> None:
        self.advice = (
            f"Kerberos as {source.principal}, service {source.spn or source.service}: check that pg_hba.conf"
            " lets this principal be this user (include_realm, krb_realm, pg_ident.conf), the server's own"
            " keytab, and the clocks"
        )
        self._source = source
        self._limit = limit  # seconds a new connection waits for a KDC
        self._gssapi = _library()
        self._cache = source.cache or _default_cache(self._gssapi)
        self._client_keytab = os.environ.get(_CLIENT_KEYTAB, "")
        self._directory: Path | None = None
        self._tickets: _Tickets | None = None
        self._refused = False
        self._making: asyncio.Task[None] | None = None
        self._began = 0.0
        self._watching: asyncio.Task[None] | None = None
        self._failure = ""
        self._on_wait: Callable[[str], None] = lambda why: None
        metrics.register_gauge("kine_identity_expiry_seconds", self._shown)

    def check_realm(self) -> None:
        """Raises ValueError if no realm is known for a keytab's principal. A cache has its own realm."""
        if not self._source.keytab or "@" in self._source.principal:
            return
        gssapi = self._gssapi
        try:
            name = gssapi.Name(self._source.principal, gssapi.NameType.kerberos_principal)
            name.canonicalize(gssapi.MechType.kerberos)
        except gssapi.exceptions.GSSError as error:
            raise ValueError(f"no realm for {self._source.principal}: {self._said(error)}") from None

    async def credential(self, host: str, port: int, user: str) -> None:
        hosts = tuple(host.split(","))
        tickets = self._tickets
        fresh = tickets is not None and tickets.hosts == hosts and tickets.usable(time.time())
        if not fresh or self._refused:
            making = self._renew(hosts)
            self._on_wait("; last time ".join(filter(None, ("waiting for Kerberos tickets", self._failure))))
            # A caller that joins a renewal waits no longer than the first one.
            left = max(_RETRY, self._began + self._limit - asyncio.get_running_loop().time())
            try:
                async with asyncio.timeout(left):
                    await asyncio.shield(making)
            except TimeoutError:
                if not fresh:
                    raise IdentityError(
                        f"no Kerberos ticket: no KDC has answered within {self._limit:.0f} s; check that the"
                        " KDC runs and can be reached"
                    ) from None
            except IdentityError:
                if not fresh:
                    raise
            self._on_wait(CONNECTING)
        elif tickets is not None and tickets.mark != self._mark():
            self._renew(hosts)
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch(hosts), name="kerberos")

    def report_to(self, on_wait: Callable[[str], None]) -> None:
        self._on_wait = on_wait

    def refused(self) -> None:
        """Forces new tickets: the server's key may have changed, and the ticket may be for the old one."""
        self._refused = True

    async def close(self) -> None:
        tasks = [task for task in (self._watching, self._making) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            if os.environ.get("KRB5CCNAME", "").startswith(f"FILE:{self._directory}/"):
                del os.environ["KRB5CCNAME"]
            if self._client_keytab:
                os.environ[_CLIENT_KEYTAB] = self._client_keytab
            else:
                os.environ.pop(_CLIENT_KEYTAB, None)
            self._directory = None

    def _shown(self) -> float:
        """Seconds until expiry for the metric; infinite before the first request for tickets.

        A connection requests none if the database accepts a password.
        """
        return self._left() if self._making or self._tickets else inf

    def _left(self) -> float:
        return self._tickets.end - time.time() if self._tickets else 0.0

    async def _watch(self, hosts: tuple[str, ...]) -> None:
        """Renews tickets from half their lifetime on, and when the keytab or cache has changed."""
        while True:
            now = time.time()
            tickets = self._tickets
            assert tickets is not None
            halfway = (tickets.made + tickets.end) / 2 - now
            pause = halfway if halfway > 0 else max(_RETRY, (tickets.end - now) / 4)
            await asyncio.sleep(min(_LOOK, max(0.2, pause)))
            if tickets.due(time.time()) or tickets.mark != self._mark():
                with contextlib.suppress(IdentityError):
                    await asyncio.shield(self._renew(hosts))

    def _renew(self, hosts: tuple[str, ...]) -> asyncio.Task[None]:
        """Starts a renewal, or returns the running one. The task fails with IdentityError."""
        if self._making is None or self._making.done():
            self._began = asyncio.get_running_loop().time()
            self._making = asyncio.create_task(self._make(hosts), name="kerberos tickets")
            self._making.add_done_callback(lambda task: task.cancelled() or task.exception())
        return self._making

    async def _make(self, hosts: tuple[str, ...]) -> None:
        mark = self._mark()
        try:
            directory = self._private()
            try:
                end = await in_daemon_thread(lambda: self._acquire(directory, hosts))
            except (OSError, ValueError) as error:
                raise IdentityError(
                    f"no Kerberos ticket for {self._source.principal}: {error}; check TMPDIR, its space, and"
                    " the limit on threads"
                ) from None
        except IdentityError as error:
            if str(error) != self._failure:
                self._failure = str(error)
                left = self._left()
                log.warning("%s%s", error, f"; the old ticket is good for {left:.0f} s" if left > 0 else "")
            raise
        if self._failure:
            log.info("Kerberos tickets can be had again")
        self._tickets, self._refused, self._failure = _Tickets(time.time(), end, mark, hosts), False, ""
        log.debug("Kerberos tickets for %s, good for %.0f s", self._source.principal, end - time.time())

    def _private(self) -> Path:
        if self._directory is None or not self._directory.is_dir():
            try:
                self._directory = Path(tempfile.mkdtemp(prefix="kine-krb5-"))
            except OSError as error:
                raise IdentityError(
                    f"no place for Kerberos tickets ({error.strerror}): set TMPDIR to a directory of ours"
                ) from None
            os.environ["KRB5CCNAME"] = f"FILE:{self._directory / 'tickets'}"
            os.environ[_CLIENT_KEYTAB] = _NO_KEYTAB
        return self._directory

    def _mark(self) -> object:
        """The keytab's or cache's version: changes with the file.

        Symbolic links are followed, as Kubernetes updates a mounted Secret by swapping links.
        """
        path = self._source.keytab or self._cache
        kind, colon, name = path.partition(":")
        if colon and kind == "FILE":
            path = name
        elif colon and not path.startswith("/"):
            return None
        try:
            found = os.stat(path)
        except OSError:
            # The file may be missing briefly while it is replaced: the current tickets remain valid.
            return self._tickets.mark if self._tickets else None
        return found.st_mtime_ns, found.st_ino, found.st_size

    def _acquire(self, directory: Path, hosts: tuple[str, ...]) -> float:
        """Creates a new cache and replaces the old one.

        Returns the earliest expiry of its tickets, in seconds since the epoch. Raises IdentityError.
        """
        made = directory / "next"
        made.unlink(missing_ok=True)
        gssapi = self._gssapi
        try:
            held = self._from_keytab(made) if self._source.keytab else self._from_cache(made)
            end = time.time() + held.lifetime
            failures = []
            for service in self._services(hosts):
                # The client side of a handshake that is never sent: it stores the ticket in the cache. As it
                # does not ask for mutual authentication, one step completes it and gives the lifetime.
                context = gssapi.SecurityContext(
                    name=service, creds=held, usage="initiate", flags=gssapi.RequirementFlag.integrity
                )
                try:
                    context.step()
                except gssapi.exceptions.GSSError as error:
                    failures.append(error)
                else:
                    end = min(end, time.time() + context.lifetime)
            if failures and len(failures) == len(self._services(hosts)):
                raise failures[0]
            self._prepare(made, hosts)
        except gssapi.exceptions.GSSError as error:
            made.unlink(missing_ok=True)
            raise IdentityError(
                f"no Kerberos ticket for {self._source.principal}: {self._said(error)}"
            ) from None
        made.replace(directory / "tickets")
        return float(end)

    def _from_keytab(self, made: Path) -> Any:
        gssapi = self._gssapi
        return gssapi.Credentials(
            name=gssapi.Name(self._source.principal, gssapi.NameType.kerberos_principal),
            usage="initiate",
            store={"client_keytab": f"FILE:{self._source.keytab}", "ccache": f"FILE:{made}"},
        )

    def _from_cache(self, made: Path) -> Any:
        gssapi = self._gssapi
        kept = {"client_keytab": self._client_keytab} if self._client_keytab else {}
        copied = {"ccache": f"FILE:{made}"}
        gssapi.Credentials(usage="initiate", store={"ccache": self._cache} | kept).store(
            store=copied, usage="initiate", overwrite=True
        )
        return gssapi.Credentials(usage="initiate", store=copied)

    def _services(self, hosts: tuple[str, ...]) -> list[Any]:
        """The database's principals, for which libpq will look up tickets."""
        gssapi = self._gssapi
        if self._source.spn:
            return [gssapi.Name(self._named(hosts), gssapi.NameType.kerberos_principal)]
        return [self._looked_for(host) for host in hosts]

    def _looked_for(self, host: str) -> Any:
        gssapi = self._gssapi
        return gssapi.Name(f"{self._source.service}@{host}", gssapi.NameType.hostbased_service)

    def _named(self, hosts: tuple[str, ...]) -> str:
        """krbspn with a realm: by default the one that krb5.conf maps its host to, as in Go kine."""
        spn = self._source.spn
        service, slash, host = spn.partition("/")
        if "@" in spn or not slash:
            return spn
        gssapi = self._gssapi
        found = gssapi.Name(f"{service}@{host}", gssapi.NameType.hostbased_service)
        realm = str(found.canonicalize(gssapi.MechType.kerberos)).rpartition("@")[2]
        return f"{spn}@{realm}" if realm else spn

    def _prepare(self, made: Path, hosts: tuple[str, ...]) -> None:
        """Removes the cache's settings, and adds tickets under the names that libpq uses.

        Raises ValueError.
        """
        content = made.read_bytes()
        aliases = {}
        if self._source.spn:
            gssapi = self._gssapi
            name = gssapi.Name(self._named(hosts), gssapi.NameType.kerberos_principal)
            target = ccache_format.principal(str(name.canonicalize(gssapi.MechType.kerberos)))
            for host in hosts:
                alias = ccache_format.principal(
                    str(self._looked_for(host).canonicalize(gssapi.MechType.kerberos))
                )
                # Without a mapping in krb5.conf the realm is empty; libkrb5 then tries the client's realm.
                for realm in {alias.realm, b"", target.realm}:
                    aliases[replace(alias, realm=realm)] = target
        if aliases or content.startswith(ccache_format.VERSION):
            made.write_bytes(ccache_format.prepared(content, aliases))

    def _said(self, error: Any) -> str:
        code = error.min_code - (1 << 32) if error.min_code >= 1 << 31 else error.min_code
        if self._source.keytab and code in _NO_CACHE:  # libkrb5 could not use the keytab
            return _unusable(self._source.keytab)
        words = "; ".join(error.get_all_statuses(error.min_code, False)) or type(error).__name__
        if isinstance(error, self._gssapi.exceptions.ExpiredCredentialsError):
            # Detected by GSSAPI: libkrb5 has no error, and its text is "Success".
            code, words = _EXPIRED, "; ".join(error.get_all_statuses(error.maj_code, True))
        where = f"keytab {self._source.keytab}" if self._source.keytab else f"cache {self._cache}"
        return f"{words} ({where}); {_ADVICE.get(code, 'check the realm, the KDC and krb5.conf')}"


def _unusable(keytab: str) -> str:
    if not os.access(keytab, os.R_OK):
        return f"the keytab {keytab} does not exist or may not be read; check krb5_keytab or KRB5_KTNAME"
    return f"the keytab {keytab} has no key for the principal; check the endpoint's user and realm (klist -k)"


def _library() -> Any:
    try:
        import gssapi
    except (ImportError, OSError) as error:
        raise ValueError(
            "the endpoint asks for Kerberos, which needs the Python package gssapi on the system's libkrb5:"
            " install libkrb5-dev and a C compiler, then gssapi, as kine's extra kerberos does"
            f" ({type(error).__name__})"
        ) from None
    return gssapi


def _default_cache(gssapi: Any) -> str:
    """The cache of the user's environment. Call this before kine sets KRB5CCNAME."""
    told = os.environ.get("KRB5CCNAME")
    if told in ("", _NO_NAME):  # libkrb5 would look for a file with an empty name
        return f"FILE:/tmp/krb5cc_{os.getuid()}"
    return told or gssapi.raw.krb5_ccache_name(None).decode()


def provider(source: CredentialSource, limit: float) -> Provider:
    """The Kerberos provider. Raises ValueError if gssapi or the keytab is missing.

    Reads KRB5CCNAME now, and sets it when it first acquires tickets.
    """
    if source.keytab:
        try:
            Path(source.keytab).open("rb").close()
        except OSError as error:
            raise ValueError(
                f"the keytab {source.keytab} cannot be read by this process, of user id {os.geteuid()}"
                f" ({error.strerror}): check krb5_keytab or KRB5_KTNAME, and the file's owner and mode"
            ) from None
    made = Kerberos(source, limit)
    made.check_realm()
    return made
