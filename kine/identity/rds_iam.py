"""RDS IAM authentication: the password is a presigned request, signed with the machine's AWS credentials.

Signing needs no network. Loading the credentials may (instance metadata, STS, SSO), so it runs in a thread,
with a time limit. Credentials that expire are renewed ahead of time, and used until they expire even if the
renewal fails. After a failure, the next attempt follows 1 to 15 seconds later, and goes through the whole
provider chain again. A token is valid for 15 minutes; as signing takes a millisecond, each connection gets
its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

from kine.identity.aws_credentials import Credentials, load
from kine.identity.base import CONNECTING, IdentityError
from kine.identity.daemon_thread import in_daemon_thread
from kine.observe import metrics

if TYPE_CHECKING:
    from collections.abc import Callable

    from kine.identity.base import Provider

log = logging.getLogger(__name__)

# NAME.ID.REGION.rds.DOMAIN, in China NAME.ID.rds.REGION.DOMAIN; the domain depends on the AWS partition.
_DOMAINS = (
    r"amazonaws\.com|amazonaws\.com\.cn|amazonaws\.eu"
    r"|c2s\.ic\.gov|sc2s\.sgov\.gov|cloud\.adc-e\.uk|csp\.hci\.ic\.gov"
)
_REGION = r"(?P<{}>[a-z]{{2,4}}(?:-[a-z]+)+-[0-9]+)"
_HOST = re.compile(
    rf".+\.(?:{_REGION.format('before')}\.rds|rds\.{_REGION.format('after')})\.(?:{_DOMAINS})\.?",
    re.IGNORECASE,
)

_LIFETIME = 900  # seconds a token is valid
_AHEAD = 900.0  # seconds before expiry, half the lifetime at most, from which credentials are renewed
_MARGIN = 2.0  # seconds before expiry in which credentials count as expired
_LOOK = 60.0  # seconds between checks of the system clock, which may be changed
_RETRY = 1.0  # seconds between a failure and the next attempt, doubled each time
_RETRY_MOST = 15.0
_DOUBT = 30.0  # seconds between replacements of credentials that the database has refused
_REMIND = 60.0  # seconds between two log lines on the same failure


def region_of(host: str) -> str | None:
    """The region in an RDS host's name, in any AWS partition; None for other names, such as an alias."""
    match = _HOST.fullmatch(host)
    return (match["before"] or match["after"]).lower() if match else None


@dataclass(slots=True)
class RdsIam:
    """Implements `kine.identity.base.Provider`, with credentials of the AWS SDK's default chain."""

    limit: float  # seconds a new connection waits for credentials
    advice: str = (
        "the IAM token was refused: check that the database user may log in with IAM (PostgreSQL: GRANT"
        " rds_iam; MySQL: IDENTIFIED WITH AWSAuthenticationPlugin), that the AWS identity is allowed"
        " rds-db:connect for this user, that region and host are the instance's own, and that this machine's"
        " clock is right"
    )
    _on_wait: Callable[[str], None] = field(default=lambda why: None, repr=False)
    _load: Callable[[str | None, float], Credentials] = field(default=load, repr=False)
    _held: Credentials | None = field(default=None, repr=False)
    _doubted: bool = False
    _making: asyncio.Task[None] | None = None
    _began: float = 0.0
    _watching: asyncio.Task[None] | None = None
    _failures: int = 0
    _failed: tuple[str, float] = ("", -inf)  # the last failure, and its event-loop time
    _told: tuple[str, float] = ("", -inf)  # the last logged failure, and its event-loop time

    async def credential(self, host: str, port: int, user: str) -> str:
        region = region_of(host)
        held = await self._credentials(region)
        region = region or held.region
        if not region:
            raise IdentityError(
                "the database's host does not tell its AWS region: set AWS_REGION, or region in the AWS"
                " profile"
            )
        try:
            return await in_daemon_thread(lambda: _signed(held, host, port, user, region))
        except OSError as error:
            raise IdentityError(f"the database token cannot be signed: {error.strerror}") from None

    def report_to(self, on_wait: Callable[[str], None]) -> None:
        self._on_wait = on_wait

    def refused(self) -> None:
        """Marks the credentials for reloading: their source may have new ones. Tokens are always new."""
        self._doubted = True

    async def close(self) -> None:
        tasks = [task for task in (self._watching, self._making) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _credentials(self, region: str | None) -> Credentials:
        """The current credentials if they are valid, else new ones. Raises IdentityError."""
        held = self._usable()
        if held is not None and not (self._doubted and time.time() > held.found + _DOUBT):
            return held
        now = asyncio.get_running_loop().time()
        if self._making is None and self._failures and now < self._failed[1] + self._pause():
            if held is not None:
                return held
            raise IdentityError(self._failed[0])
        making = self._renew(region)
        self._on_wait("; last time ".join(filter(None, ("waiting for AWS credentials", self._failed[0]))))
        # A caller that joins a renewal waits no longer than the first one.
        left = max(_RETRY, self._began + self.limit - now)
        try:
            async with asyncio.timeout(left):
                await asyncio.shield(making)
        except TimeoutError:
            slow = f"no AWS credentials within {self.limit:.0f} s: {_SLOW}"
            if making is self._making:  # abandon it, so that the other callers fail at once
                self._making = None
                self._fail(slow)
            if (held := self._usable()) is None:
                raise IdentityError(slow) from None
            return held
        except IdentityError:
            if (held := self._usable()) is None:
                raise
            return held
        assert self._held is not None
        self._on_wait(CONNECTING)
        return self._held

    def _pause(self) -> float:
        """Seconds until the next attempt, by the number of failures in a row."""
        return min(_RETRY_MOST, _RETRY * 2.0 ** min(self._failures - 1, 10))

    def _usable(self) -> Credentials | None:
        return self._held if self.left() > _MARGIN else None

    def left(self) -> float:
        return self._held.expires - time.time() if self._held is not None else 0.0

    def _renew(self, region: str | None) -> asyncio.Task[None]:
        """Starts a renewal, or returns the running one. The task fails with IdentityError.

        One that takes longer than the limit is abandoned, and another is started.
        """
        now = asyncio.get_running_loop().time()
        if self._making is None or now > self._began + self.limit:  # timed out in `_watch`
            self._began = now
            self._making = making = asyncio.create_task(self._make(region), name="aws credentials")
            making.add_done_callback(self._made)
        return self._making

    def _made(self, making: asyncio.Task[None]) -> None:
        if making is self._making:
            self._making = None
        if not making.cancelled():
            making.exception()

    async def _make(self, region: str | None) -> None:
        try:
            try:
                found = await in_daemon_thread(lambda: self._load(region, self.limit))
            except OSError as error:
                raise IdentityError(f"AWS credentials cannot be looked for: {error.strerror}") from None
            if found.expires - time.time() <= _MARGIN:
                raise IdentityError(
                    "the AWS credentials that were found have expired: renew them where they come from, and"
                    " check this machine's clock"
                )
        except IdentityError as error:
            self._fail(str(error))
            raise
        if self._failures:
            log.info("AWS credentials can be had again")
        self._held, self._doubted, self._failures = found, False, 0
        self._failed = self._told = "", -inf
        if self._watching is None and found.expires < inf:
            self._watching = asyncio.create_task(self._watch(region), name="aws renewal")

    def _fail(self, failure: str) -> None:
        now = asyncio.get_running_loop().time()
        self._failures += 1
        self._failed = failure, now
        if failure == self._told[0] and now < self._told[1] + _REMIND:
            return
        self._told = failure, now
        left = self.left()
        log.warning("%s%s", failure, f"; those at hand are good for {left:.0f} s" if left > _MARGIN else "")

    async def _watch(self, region: str | None) -> None:
        """Renews the credentials ahead of expiry, so that no connection waits for it."""
        while True:
            held = self._held
            assert held is not None
            due = held.expires - min(_AHEAD, (held.expires - held.found) / 2) - time.time()
            if due > 0:
                await asyncio.sleep(min(_LOOK, due))
                continue
            with contextlib.suppress(IdentityError, TimeoutError):
                async with asyncio.timeout(self.limit):
                    await asyncio.shield(self._renew(region))
            if self._held is held:
                await asyncio.sleep(self._pause())


_SLOW = (
    "what they come from does not answer; check that the metadata service, STS, SSO or the credential_process"
    " can be reached and is quick enough (--identity-timeout)"
)


def _signed(held: Credentials, host: str, port: int, user: str, region: str) -> str:
    from botocore.auth import SigV4QueryAuth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import ReadOnlyCredentials

    # The name must have the case in which it is signed: the server gets it within the token's text.
    name = f"[{host}]" if ":" in host else host.lower()
    request = AWSRequest("GET", f"https://{name}:{port}/", params={"Action": "connect", "DBUser": user})
    keys = ReadOnlyCredentials(held.access_key, held.secret_key, held.session_token or None)
    SigV4QueryAuth(keys, "rds-db", region, expires=_LIFETIME).add_auth(request)
    return str(request.prepare().url).removeprefix("https://")


def provider(limit: float) -> Provider:
    # botocore's log records may hold a credential provider's output. kine logs each failure itself.
    logging.getLogger("botocore").setLevel(logging.CRITICAL + 1)
    made = RdsIam(limit)
    metrics.register_gauge("kine_identity_expiry_seconds", made.left)
    return made
