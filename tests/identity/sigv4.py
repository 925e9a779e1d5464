"""Verifier of RDS IAM tokens by the published rules of Signature Version 4, without AWS' own library."""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, quote

ACCESS_KEY = "AKIDEXAMPLE"
SECRET_KEY = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
LIFETIME = 900


def token(host: str, port: int, user: str, region: str, moment: datetime, *, session_token: str = "") -> str:
    stamp = moment.strftime("%Y%m%dT%H%M%SZ")
    day = stamp[:8]
    scope = f"{day}/{region}/rds-db/aws4_request"
    query = {
        "Action": "connect",
        "DBUser": user,
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{ACCESS_KEY}/{scope}",
        "X-Amz-Date": stamp,
        "X-Amz-Expires": str(LIFETIME),
        "X-Amz-SignedHeaders": "host",
    }
    if session_token:
        query["X-Amz-Security-Token"] = session_token
    canonical_query = "&".join(f"{name}={quote(value, safe='-_.~')}" for name, value in sorted(query.items()))
    empty = hashlib.sha256(b"").hexdigest()
    request = f"GET\n/\n{canonical_query}\nhost:{host}:{port}\n\nhost\n{empty}"
    signed = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = f"AWS4{SECRET_KEY}".encode()
    for part in (day, region, "rds-db", "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, signed.encode(), hashlib.sha256).hexdigest()
    return f"{host}:{port}/?{canonical_query}&X-Amz-Signature={signature}"


def signed_at(text: str) -> datetime:
    stamp = parse_qs(text.partition("?")[2])["X-Amz-Date"][0]
    return datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)


def fields(text: str) -> dict[str, str]:
    """The parts of a token: their order is free, the signature covers them sorted."""
    place, _, query = text.partition("?")
    return {"": place} | {name: values[0] for name, values in parse_qs(query).items()}


def good(text: str, host: str, port: int, user: str, region: str, now: datetime) -> bool:
    """Whether RDS would accept the token at this moment."""
    try:
        moment = signed_at(text)
    except (KeyError, ValueError):
        return False
    fresh = timedelta(minutes=-5) <= now - moment <= timedelta(seconds=LIFETIME)
    return fresh and fields(text) == fields(token(host, port, user, region, moment))
