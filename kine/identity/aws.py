"""RDS IAM: the password is a presigned request, signed here with the machine's AWS credentials.

Signing needs no network; finding the credentials may (instance metadata, STS, SSO), so both happen in a
thread. A token is good for 15 minutes, and as signing costs a millisecond, each connection gets its own.
"""

from __future__ import annotations

import os
import re
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kine.identity.aside import aside
from kine.identity.base import IdentityError

if TYPE_CHECKING:
    from kine.identity.base import Provider

# NAME.ID.REGION.rds.DOMAIN, in China NAME.ID.rds.REGION.DOMAIN; the domain is the partition's.
_DOMAINS = (
    r"amazonaws\.com|amazonaws\.com\.cn|amazonaws\.eu"
    r"|c2s\.ic\.gov|sc2s\.sgov\.gov|cloud\.adc-e\.uk|csp\.hci\.ic\.gov"
)
_REGION = r"(?P<{}>[a-z]{{2,4}}(?:-[a-z]+)+-[0-9]+)"
_HOST = re.compile(
    rf".+\.(?:{_REGION.format('before')}\.rds|rds\.{_REGION.format('after')})\.(?:{_DOMAINS})\.?",
    re.IGNORECASE,
)


def region_of(host: str) -> str | None:
    """The region an RDS host's name tells, in any of AWS' partitions; None for other names, as an alias."""
    match = _HOST.fullmatch(host)
    return (match["before"] or match["after"]).lower() if match else None


@dataclass(slots=True)
class RdsIam:
    """See `kine.identity.base.Provider`. Credentials come from boto3's default chain."""

    advice: str = (
        "the IAM token was refused: check that the database user may log in with IAM (PostgreSQL: GRANT"
        " rds_iam; MySQL: IDENTIFIED WITH AWSAuthenticationPlugin), that the AWS identity is allowed"
        " rds-db:connect for this user, that region and host are the instance's own, and that this machine's"
        " clock is right"
    )
    _clients: dict[str, Any] = field(default_factory=dict, repr=False)
    _session: Any = field(default=None, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    async def credential(self, host: str, port: int, user: str) -> str:
        return await aside(lambda: self._sign(host, port, user))

    def refused(self) -> None:
        """Every token is a new one."""

    async def close(self) -> None:
        """Holds nothing open."""

    def _sign(self, host: str, port: int, user: str) -> str:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

        try:
            client = self._client(region_of(host))
            token = client.generate_db_auth_token(DBHostname=host, Port=port, DBUsername=user)
        except NoCredentialsError:
            raise IdentityError(
                "no AWS credentials were found to sign the database token with: set AWS_ACCESS_KEY_ID and"
                " AWS_SECRET_ACCESS_KEY, a profile, a web identity, or give the machine or pod a role"
            ) from None
        except ClientError as error:
            raise IdentityError(
                f"AWS refused the credentials to sign the database token with"
                f" ({error.response.get('Error', {}).get('Code', 'unknown')}): check the role, its trust, and"
                " this machine's clock"
            ) from None
        except (BotoCoreError, Boto3Error) as error:
            # These name files, profiles and metadata addresses; no key.
            raise IdentityError(f"no AWS credentials to sign the database token with: {error}") from None
        if not isinstance(token, str):
            raise IdentityError("boto3 gave no database token: is an old version installed?")
        return token

    def _client(self, region: str | None) -> Any:
        """Made once a region: it takes a tenth of a second. Its credentials renew themselves."""
        import boto3

        with self._lock:
            if self._session is None:
                self._session = boto3.session.Session()
            # Python's SDK reads only AWS_DEFAULT_REGION; the others, AWS_REGION first.
            region = region or os.environ.get("AWS_REGION") or self._session.region_name
            if not region:
                raise IdentityError(
                    "the database's host does not tell its AWS region: set AWS_REGION, or region in the"
                    " AWS profile"
                )
            if region not in self._clients:
                self._clients[region] = self._session.client("rds", region_name=region)
            return self._clients[region]


def provider() -> Provider:
    return RdsIam()
