"""Stub of AWS' credential services: instance and container metadata, STS and single sign-on.

It listens on loopback, and can be made slow or faulty.
"""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from tests.identity import sigv4


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    headers: dict[str, str]  # names in lower case
    body: str


@dataclass(frozen=True)
class Answer:
    body: str = ""
    status: int = 200
    kind: str = "application/json"


Behaviour = Callable[[Asked], Answer]


@dataclass
class Stub:
    """Behaves as set, from the next request on; while `silent` it answers no request."""

    behave: Behaviour
    place: tuple[str, int] = ("127.0.0.1", 0)
    asked: list[Asked] = field(default_factory=list)
    talking: threading.Event = field(default_factory=threading.Event)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def __enter__(self) -> Self:
        stub = self
        self.talking.set()

        class Handler(http.server.BaseHTTPRequestHandler):
            def serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
                headers = {name.lower(): value for name, value in self.headers.items()}
                asked = Asked(self.command, self.path, headers, body)
                stub._note(asked)
                stub.talking.wait(120)
                answer = stub.behave(asked)
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.kind)
                self.send_header("Content-Length", str(len(answer.body)))
                if asked.path.endswith("/api/token"):
                    self.send_header("x-aws-ec2-metadata-token-ttl-seconds", "21600")
                self.end_headers()
                self.wfile.write(answer.body.encode())

            do_GET = do_POST = do_PUT = do_CONNECT = serve  # noqa: N815

            def log_message(self, *words: object) -> None:
                """Logs nothing."""

            def handle(self) -> None:
                try:
                    super().handle()
                except OSError:
                    """The client has gone."""

        self._server = http.server.ThreadingHTTPServer(self.place, Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.talking.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def _note(self, asked: Asked) -> None:
        with self._changed:
            self.asked.append(asked)
            self._changed.notify_all()

    def wait_for(self, count: int, patience: float = 60.0) -> bool:
        """Waits until so many requests have arrived."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self.asked) >= count, patience)


def keys(life: float = 3600.0, access_key: str = sigv4.ACCESS_KEY) -> dict[str, str]:
    """The response of the metadata services for a role."""
    ends = datetime.now(UTC) + timedelta(seconds=life)
    return {
        "Code": "Success",
        "Type": "AWS-HMAC",
        "AccessKeyId": access_key,
        "SecretAccessKey": sigv4.SECRET_KEY,
        "Token": "temporary",
        "Expiration": ends.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def metadata(role: Callable[[], dict[str, str]] = keys) -> Behaviour:
    """The instance metadata service, version 2."""

    def behave(asked: Asked) -> Answer:
        if asked.path.endswith("/api/token"):
            return Answer("token", kind="text/plain")
        if asked.path.endswith("/security-credentials/"):
            return Answer("role", kind="text/plain")
        return Answer(json.dumps(role()))

    return behave


def container(role: Callable[[], dict[str, str]] = keys) -> Behaviour:
    return lambda asked: Answer(json.dumps(role()))


def sts(life: float = 3600.0, access_key: str = sigv4.ACCESS_KEY) -> Behaviour:
    """STS: gives credentials for any role, by any means."""

    def behave(asked: Asked) -> Answer:
        action = "AssumeRoleWithWebIdentity" if "WebIdentity" in asked.body else "AssumeRole"
        told = keys(life, access_key)
        return Answer(
            f'<{action}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><{action}Result>'
            f"<Credentials><AccessKeyId>{told['AccessKeyId']}</AccessKeyId>"
            f"<SecretAccessKey>{told['SecretAccessKey']}</SecretAccessKey>"
            f"<SessionToken>{told['Token']}</SessionToken><Expiration>{told['Expiration']}</Expiration>"
            "</Credentials><AssumedRoleUser><Arn>arn:aws:sts::123456789012:assumed-role/kine/kine</Arn>"
            f"<AssumedRoleId>AROA:kine</AssumedRoleId></AssumedRoleUser></{action}Result></{action}Response>",
            kind="text/xml",
        )

    return behave


def single_sign_on() -> Behaviour:
    """Single sign-on: renews any login, and returns a role's credentials for the renewed one."""

    def behave(asked: Asked) -> Answer:
        if asked.path == "/token":
            return Answer(json.dumps({"accessToken": "renewed", "expiresIn": 3600, "refreshToken": "next"}))
        if asked.headers.get("x-amz-sso_bearer_token") != "renewed":
            return Answer(json.dumps({"message": "Session token not found or invalid"}), 401)
        told = keys()
        ends = datetime.now(UTC) + timedelta(hours=1)
        role = {
            "accessKeyId": told["AccessKeyId"],
            "secretAccessKey": told["SecretAccessKey"],
            "sessionToken": told["Token"],
            "expiration": int(ends.timestamp() * 1000),
        }
        return Answer(json.dumps({"roleCredentials": role}))

    return behave


def refusing(code: str = "AccessDenied") -> Behaviour:
    return lambda asked: Answer(
        '<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type>'
        f"<Code>{code}</Code><Message>no</Message></Error></ErrorResponse>",
        403,
        "text/xml",
    )


def always(body: str, status: int = 200, kind: str = "text/plain") -> Behaviour:
    return lambda asked: Answer(body, status, kind)


def access_key(token: str) -> Any:
    """The access key that a token was signed with."""
    return sigv4.fields(token)["X-Amz-Credential"].split("/")[0]
