"""The endpoints `nats://` and `jetstream://`: Go kine's parameters, and context files of the nats CLI."""

from __future__ import annotations

import json
import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from kine.drivers.base import Options
from kine.flag_values import duration, host_and_port
from kine.tls import client_context

DEFAULT_PORT = 4222
_BUCKET = re.compile(r"[A-Za-z0-9_-]+")
_KNOWN = {
    "bucket", "replicas", "revHistory", "slowMethod", "credsFile", "contextFile", "noEmbed", "serverConfig",
    "dontListen", "stdoutLogging", "dataDir",
}  # fmt: skip
_UNUSABLE = {"nsc", "socks_proxy", "windows_cert_store"}  # settings of a context file


@dataclass(frozen=True, slots=True)
class NatsEndpoint:
    embedded: bool
    servers: tuple[str, ...]  # URLs of an external NATS
    host: str  # of the embedded server; "": not given
    port: int  # of the embedded server; 0: not given
    bucket: str
    replicas: int
    history: int  # revisions kept of each key
    slow: float  # seconds from which an operation is logged; 0: never
    server_config: str
    dont_listen: bool
    stdout_logging: bool
    data_dir: str
    tls: ssl.SSLContext | None
    login: dict[str, Any] = field(repr=False)  # arguments of nats-py's connect

    @property
    def listens(self) -> bool:
        """Whether the embedded server listens for other clients."""
        return bool(self.host or self.port) and not self.dont_listen

    def connect_options(self) -> dict[str, Any]:
        return {**self.login, **({"tls": self.tls} if self.tls is not None else {})}


def parse(endpoint: str, options: Options) -> NatsEndpoint:
    """The parsed endpoint.

    Raises ValueError, which never repeats the endpoint, and OSError for a file that cannot be read.
    """
    scheme, _, rest = endpoint.partition("://")
    # Go kine removes jetstream://, and the rest must be a nats:// URL.
    urls = (rest if scheme == "jetstream" and "://" in rest.partition("?")[0] else endpoint).split(",")
    servers = [f"nats://{_address(url)}" for url in urls]
    first = urlsplit(urls[0])
    parameters = {name: values[-1] for name, values in parse_qs(first.query, keep_blank_values=True).items()}
    unknown = sorted(set(parameters) - _KNOWN)
    if unknown:
        raise ValueError(
            f"the endpoint's parameter {unknown[0][:40]!r} is not known;"
            f" known are {', '.join(sorted(_KNOWN))}"
        )
    login = _login(first.netloc.rpartition("@")[0])
    files = {"ca": options.ca_file, "cert": options.cert_file, "key": options.key_file}
    if path := parameters.get("credsFile"):
        login = {"user_credentials": _readable("credsFile", path)}
    embedded = scheme == "nats" and "noEmbed" not in parameters
    if path := parameters.get("contextFile"):
        if first.netloc:
            raise ValueError(
                "with contextFile the endpoint must name no host: nats://?noEmbed&contextFile=PATH"
            )
        context = _context(path)
        servers = [f"nats://{_address(url)}" for url in str(context.get("url") or "127.0.0.1").split(",")]
        login = {**_context_login(context), **login}
        files = {name: given or str(context.get(name) or "") for name, given in files.items()}
        embedded = False
    explicit = embedded and first.netloc and not {"serverConfig", "dontListen"} & set(parameters)
    if explicit and not {"password", "token"} & set(login):
        raise ValueError(
            "an embedded NATS that listens for others needs a login: write nats://USER:PASSWORD@HOST:PORT, or"
            " leave host and port out, or connect to a NATS that runs there with ?noEmbed"
        )
    bucket = parameters.get("bucket") or "kine"
    if not _BUCKET.fullmatch(bucket):
        raise ValueError("bucket in the endpoint may hold letters, digits, - and _ only")
    return NatsEndpoint(
        embedded=embedded,
        servers=tuple(servers),
        host=first.hostname or "",
        port=host_and_port(first.netloc.rpartition("@")[2], 0)[1],
        bucket=bucket,
        replicas=_count(parameters, "replicas", 1, 1, 5),
        history=_count(parameters, "revHistory", 10, 2, 64),
        slow=_slow(parameters.get("slowMethod") or "500ms"),
        server_config=parameters.get("serverConfig", ""),
        dont_listen="dontListen" in parameters,
        stdout_logging="stdoutLogging" in parameters,
        data_dir=parameters.get("dataDir", ""),
        tls=_tls(files, skip_verify=options.skip_verify),
        login=login,
    )


def _login(account: str) -> dict[str, Any]:
    user, colon, password = account.partition(":")
    if colon:
        return {"user": unquote(user), "password": unquote(password)}
    return {"token": unquote(user)} if user else {}


def _address(url: str) -> str:
    host, port = host_and_port(
        url.rpartition("://")[2].partition("?")[0].partition("/")[0].rpartition("@")[2], DEFAULT_PORT
    )
    return f"[{host}]:{port}" if ":" in host else f"{host or '127.0.0.1'}:{port}"


def _count(parameters: dict[str, str], name: str, default: int, low: int, high: int) -> int:
    text = parameters.get(name) or str(default)
    if not text.isdecimal() or not low <= int(text) <= high:
        raise ValueError(f"{name} in the endpoint must be a number from {low} to {high}")
    return int(text)


def _slow(text: str) -> float:
    try:
        return duration(text)
    except ValueError:
        raise ValueError("slowMethod in the endpoint must be a duration such as 500ms") from None


def _readable(name: str, path: str) -> str:
    try:
        open(path, "rb").close()
    except OSError as error:
        raise ValueError(f"{name} in the endpoint, {path}: {error.strerror}; give a readable file") from None
    return path


def _context(path: str) -> dict[str, Any]:
    _readable("contextFile", path)
    try:
        context = json.loads(Path(path).read_bytes())
    except ValueError:
        context = None
    if not isinstance(context, dict):
        raise ValueError(f"contextFile in the endpoint, {path}, is not a nats CLI context: a JSON object")
    unusable = sorted(name for name in _UNUSABLE if context.get(name))
    if unusable:
        raise ValueError(
            f"contextFile in the endpoint, {path}: {unusable[0]} is not supported; use creds or user"
        )
    return context


def _context_login(context: dict[str, Any]) -> dict[str, Any]:
    login: dict[str, Any] = {}
    if context.get("creds"):
        login["user_credentials"] = _readable("creds of contextFile", str(context["creds"]))
    elif context.get("nkey"):
        login["nkeys_seed"] = _readable("nkey of contextFile", str(context["nkey"]))
    elif context.get("user") and context.get("password"):
        login = {"user": context["user"], "password": context["password"]}
    elif context.get("token") or context.get("user"):
        login["token"] = context.get("token") or context["user"]
    if context.get("inbox_prefix"):
        login["inbox_prefix"] = str(context["inbox_prefix"])
    if context.get("tls_first"):
        login["tls_handshake_first"] = True
    return login


def _tls(files: dict[str, str], *, skip_verify: bool) -> ssl.SSLContext | None:
    if not any(files.values()) and not skip_verify:
        return None
    for name, path in files.items():
        if path:
            _readable(f"{name} of contextFile", path)
    try:
        context = client_context(files["ca"])
        if skip_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if files["cert"]:
            context.load_cert_chain(files["cert"], files["key"] or None)
    except ssl.SSLError:
        raise ValueError(
            "the ca, cert or key file of contextFile in the endpoint is no PEM certificate or key;"
            " check that each is the right file and that they belong together"
        ) from None
    return context
