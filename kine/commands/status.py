"""`kine status`: revision, size, lag and peers of a running server or a database."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from contextlib import aclosing
from http.client import HTTPException, InvalidURL
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kine.commands import options
from kine.drivers.base import DriverError
from kine.proto import rpc_pb2 as rpc

if TYPE_CHECKING:
    from kine.commands.endpoint_client import EndpointClient
    from kine.config import Settings

_PATIENCE = 10.0  # seconds
_COMPACTED_WITHIN = 1.0  # seconds to wait for a watch from a compacted revision to be canceled
_METRICS_BYTES = 16 * 1024 * 1024
_METRICS = ("keys", "watchers", "watch_streams", "slow_watchers", "write_queue", "workers")


@options.with_endpoint()
def status(
    asked: options.CommandOptions,
    metrics: Annotated[
        str | None,
        typer.Option(metavar="URL", help="The server's metrics address too: http://127.0.0.1:8080."),
    ] = None,
) -> None:
    """Show the revision, compact revision, size, lag and peers of a running server or of a database.

    The endpoint is a server (default http://127.0.0.1:2379), or a database as in the server's --endpoint,
    which is opened read-only. Watchers, keys and the write queue come from the server's metrics. lag is the
    number of revisions that the server was behind.

    Exit codes: 0 it responded; 1 it did not, or not in time; 2 wrong usage.
    """
    asked.run(_status(asked.settings_of_server(), metrics, asked.output), options.FAILED)


async def _status(settings: Settings, metrics: str | None, output: str) -> int:
    from kine import drivers
    from kine.commands.endpoint_client import opened

    fields: dict[str, Any] = {}
    try:
        async with asyncio.timeout(_PATIENCE):
            if drivers.can_inspect(settings.endpoint):
                fields |= await _of_database(settings)
            else:
                async with opened(settings) as api:
                    fields |= await _of_server(api)
            if metrics:
                fields |= await _of_metrics(metrics, fields)
    except TimeoutError:
        raise DriverError(
            f"no answer within {_PATIENCE:.0f} s; check that it runs, and the endpoint"
        ) from None
    if output == "json":
        print(json.dumps(fields, indent=2))  # noqa: T201
    else:
        for name, value in fields.items():
            shown = ", ".join(value) if isinstance(value, list) else value
            print(f"{name.replace('_', ' ')}: {shown}")  # noqa: T201
    return 0


async def _of_database(settings: Settings) -> dict[str, Any]:
    from kine import drivers
    from kine.drivers.sql.statements import COMPACT_REVISION, NEWEST

    async with drivers.inspect(settings.endpoint, settings.driver_options()) as view:
        names = await view.names()
        if "kine" not in names:
            raise ValueError("the database has no table kine; name kine's database in --endpoint")
        [(revision,)] = await view.ask(NEWEST)
        [(compacted,)] = await view.ask(COMPACT_REVISION)
        fields = {"revision": revision or 0, "compact_revision": compacted or 0, "size": await view.size()}
        if "kine_writer" in names:  # running servers, and those killed within the last month
            [(fields["peers"],)] = await view.ask("SELECT count(*) FROM kine_writer")
        return fields


async def _of_server(api: EndpointClient) -> dict[str, Any]:
    question = rpc.RangeRequest(key=b"health", count_only=True, serializable=True)
    behind = await api.call("KV/Range", question, rpc.RangeResponse)
    question.serializable = False
    begun = time.perf_counter()
    current = await api.call("KV/Range", question, rpc.RangeResponse)
    seconds = time.perf_counter() - begun
    answer = await api.call("Maintenance/Status", rpc.StatusRequest(), rpc.StatusResponse)
    members = await api.call("Cluster/MemberList", rpc.MemberListRequest(), rpc.MemberListResponse)
    return {
        "version": answer.version,
        "revision": current.header.revision,
        "compact_revision": await _compact_revision(api),
        "size": answer.dbSize,
        "size_in_use": answer.dbSizeInUse,
        "lag": current.header.revision - behind.header.revision,
        "read_milliseconds": round(seconds * 1000, 2),
        "peers": [f"{member.name} {' '.join(member.clientURLs)}".strip() for member in members.members],
        "errors": list(answer.errors),
    }


async def _compact_revision(api: EndpointClient) -> int:
    """The compact revision, or 0.

    No call returns it, but the response that cancels a watch from revision 1 does. The watched key is one
    that no client uses.
    """
    create = rpc.WatchCreateRequest(key=b"\0kine status", start_revision=1)
    request = rpc.WatchRequest(create_request=create)
    try:
        async with (
            asyncio.timeout(_COMPACTED_WITHIN),
            aclosing(api.stream("Watch/Watch", request)) as answers,
        ):
            async for message in answers:
                answer = rpc.WatchResponse.FromString(message)
                if answer.canceled:
                    return answer.compact_revision
    except TimeoutError:
        pass
    return 0


async def _of_metrics(url: str, fields: dict[str, Any]) -> dict[str, Any]:
    from prometheus_client.parser import text_string_to_metric_families

    if not url.startswith(("http://", "https://")):
        raise ValueError("--metrics is a URL such as http://127.0.0.1:8080")
    address = url.rstrip("/").removesuffix("/metrics") + "/metrics"
    try:
        text = await asyncio.to_thread(_fetch, address)
        families = list(text_string_to_metric_families(text))
        found = {
            sample.name: int(sample.value)
            for family in families
            for sample in family.samples
            if not sample.labels and sample.name.startswith("kine_")
        }
    except (OSError, HTTPException, ValueError, OverflowError) as error:
        raise DriverError(
            f"no metrics at {address}: {_no_metrics(error)}; name the server's --metrics-bind-address with"
            " --metrics"
        ) from None
    builds = [
        sample.labels["version"]
        for family in families
        for sample in family.samples
        if sample.name == "kine_build_info"
    ]
    more: dict[str, Any] = {"kine_version": builds[0]} if builds else {}
    more |= {name: found[f"kine_{name}"] for name in _METRICS if f"kine_{name}" in found}
    if "lag" not in fields and "kine_revision" in found:
        more["lag"] = max(0, fields["revision"] - found["kine_revision"])
    return more


def _no_metrics(error: Exception) -> str:
    if isinstance(error, InvalidURL):
        return str(error)
    if not isinstance(error, OSError):
        return "what answers there is no kine"
    reason = getattr(error, "reason", error)  # urllib's URLError has the cause as its reason
    return str(getattr(reason, "strerror", None) or reason)


def _fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - http or https, checked
        return str(answer.read(_METRICS_BYTES).decode())
