"""The NATS driver, for `nats://` (an embedded server, or `?noEmbed`) and `jetstream://` endpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kine.drivers.nats.endpoint import parse
from kine.drivers.nats.log import NatsLog

if TYPE_CHECKING:
    from kine.drivers.base import Log, Options


def connect(endpoint: str, options: Options) -> Log:
    found = parse(endpoint, options)
    return NatsLog(found, options.max_request_bytes, options.poll_interval, options.patience)


def of_one_process(endpoint: str, options: Options) -> bool:
    return parse(endpoint, options).embedded
