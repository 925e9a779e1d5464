"""The machine's AWS credentials, from the default provider chain of the AWS SDK for Python.

Each `load` goes through the whole chain with a new session. A botocore session caches the files it has read
and the providers that found nothing, and renews credentials on its own schedule.
"""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass, field
from math import inf
from typing import Any

from kine.identity import botocore_internals
from kine.identity.base import IdentityError

_ABSENT = (
    "no AWS credentials were found to sign the database token with: set AWS_ACCESS_KEY_ID and"
    " AWS_SECRET_ACCESS_KEY, a profile, a web identity, or give the machine or pod a role, whose metadata"
    " service must answer (from a container on EC2 its hop limit must be 2)"
)
_NO_TOKEN = "no AWS credentials to sign the database token with"  # noqa: S105
_ATTEMPTS = 2  # attempts of each request to STS or SSO
_PATIENCE = 0.8  # the share of the limit that a credential_process may take


@dataclass(frozen=True, slots=True)
class Credentials:
    access_key: str
    secret_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)
    expires: float = inf  # seconds since the epoch
    found: float = 0.0  # seconds since the epoch
    region: str = ""  # from the environment or the profile


def load(region: str | None, limit: float) -> Credentials:
    """Loads the credentials. Blocks. Raises IdentityError.

    `region` is the database's; STS uses it if neither the environment nor the profile has one.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    ends: list[str] = []
    try:
        return _loaded(region, limit, ends)
    except IdentityError:
        raise
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "unknown")
        raise IdentityError(
            f"AWS refused the credentials to sign the database token with ({code}): check the role, its"
            " trust, and this machine's clock"
        ) from None
    except BotoCoreError as error:
        raise IdentityError(f"{_NO_TOKEN}: {_reason(error, ends)}") from None
    except OSError as error:
        where = f" ({error.filename})" if isinstance(error.filename, str) else ""
        raise IdentityError(
            f"{_NO_TOKEN}: {error.strerror or type(error).__name__}{where}; check the profile and the AWS_"
            " variables"
        ) from None
    except Exception as error:
        # botocore lets its parsers' errors through. The text may hold a provider's output: do not log it.
        expired = "still expired" in str(error)
        raise IdentityError(
            f"{_NO_TOKEN}: "
            + (
                "those that were found have expired; renew them where they come from"
                if expired
                else f"what they come from gave no credentials ({type(error).__name__}); look at its answer"
            )
        ) from None


def _loaded(region: str | None, limit: float, ends: list[str]) -> Credentials:
    from botocore.config import Config
    from botocore.credentials import create_credential_resolver
    from botocore.session import Session

    session = Session()
    # AWS' SDK for Python reads only AWS_DEFAULT_REGION; the SDKs for other languages read AWS_REGION first.
    own = os.environ.get("AWS_REGION") or session.get_config_variable("region") or ""
    session.set_config_variable("region", own or region)
    session.set_default_client_config(
        Config(
            connect_timeout=max(1.0, limit / 3),
            read_timeout=max(1.0, limit / 2),
            retries={"total_max_attempts": _ATTEMPTS},
        )
    )
    resolver = create_credential_resolver(session, region_name=own or region)
    _bound_processes(resolver, session, limit, ends)
    credentials = resolver.load_credentials()
    if credentials is None:
        raise IdentityError(_ABSENT)
    frozen = credentials.get_frozen_credentials()
    if not (isinstance(frozen.access_key, str) and isinstance(frozen.secret_key, str)):
        raise IdentityError(_ABSENT)
    expiry = getattr(credentials, "_expiry_time", None)
    return Credentials(
        frozen.access_key,
        frozen.secret_key,
        frozen.token or "",
        expiry.timestamp() if expiry is not None else inf,
        time.time(),
        own,
    )


def _bound_processes(resolver: Any, session: Any, limit: float, ends: list[str]) -> None:
    """Adds a timeout for each credential_process, and records its exit status, which botocore does not do.

    Also for a credential_process that gives the credentials to assume a role with.
    """
    from botocore.credentials import ProcessProvider

    class Process(subprocess.Popen[bytes]):
        def communicate(self, input: Any = None, timeout: float | None = None) -> tuple[bytes, bytes]:  # noqa: A002
            wait = limit * _PATIENCE
            try:
                return super().communicate(input, timeout or wait)
            except subprocess.TimeoutExpired:
                self.kill()
                ends.append(f"it was ended after {wait:.0f} s")
                return super().communicate()
            finally:
                ends.append(f"exit status {self.returncode}")

    def bounded(profile_name: str) -> Any:
        return ProcessProvider(profile_name, lambda: session.full_config, popen=Process)

    for place, provider in enumerate(resolver.providers):
        if isinstance(provider, ProcessProvider):
            resolver.providers[place] = bounded(session.get_config_variable("profile") or "default")
        botocore_internals.make_processes_by(provider, bounded)


def _silent(error: BaseException | None) -> str:
    """Why the container's metadata service did not answer, which botocore's error hides; else empty."""
    from botocore import exceptions
    from botocore.utils import ContainerMetadataFetcher as Fetcher

    asked = f"asked {Fetcher.RETRY_ATTEMPTS} times, {Fetcher.TIMEOUT_SECONDS} s each"
    hidden = isinstance(error, exceptions.MetadataRetrievalError | exceptions.CredentialRetrievalError)
    while hidden and error is not None:
        if isinstance(error, exceptions.ReadTimeoutError | exceptions.ConnectTimeoutError):
            return f"the metadata service of the container did not answer ({asked}); check that it runs"
        if isinstance(error, exceptions.EndpointConnectionError | exceptions.ConnectionClosedError):
            return (
                "the metadata service of the container cannot be reached; check AWS_CONTAINER_CREDENTIALS_*"
            )
        error = error.__context__
    return ""


def _reason(error: Any, ends: list[str]) -> str:
    """What has failed, without any provider's response and without any output of a process."""
    from botocore import exceptions

    if silent := _silent(error):
        return silent
    if isinstance(error, exceptions.MetadataRetrievalError):
        return "the metadata service of the container gave none; look at its answer and its token"
    if isinstance(error, exceptions.CredentialRetrievalError):
        name = str(error.kwargs.get("provider", ""))
        if name == "custom-process":
            end = ends[0] if ends else "it did not begin"
            return f"the credential_process of the profile gave none ({end}); run it by hand"
        return f"the provider {name} gave none; look at its settings"
    if isinstance(error, exceptions.SSOError | exceptions.TokenRetrievalError):
        return f"{error}; run aws sso login for the profile, as the user that kine runs as"
    # The other errors' texts have files, profiles and addresses, but no secrets.
    return str(error)
