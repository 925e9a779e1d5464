"""The connection to one etcd member: grpcio's channel, its TLS credentials, and its connectivity state."""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from kine import tls
from kine.observe.logging import fields
from kine.remote.connect_errors import reason
from kine.remote.insecure_tls_relay import InsecureTlsRelay

if TYPE_CHECKING:
    from collections.abc import Callable

    from kine.drivers.base import Options
    from kine.remote.endpoint import EtcdEndpoint

log = logging.getLogger(__name__)

READY = grpc.ChannelConnectivity.READY
FAILED = grpc.ChannelConnectivity.TRANSIENT_FAILURE

# Detects a silently dropped connection within some 20 seconds. etcd disconnects clients that ping more often
# than every 5 s, or without an active call (server/embed, DefaultGRPCKeepAliveMinTime).
_OPTIONS: list[tuple[str, int | str]] = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),  # as in etcd's client, which ignores the environment's HTTP proxies
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5_000),  # for one attempt, TLS included
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.primary_user_agent", "kine"),
]


class Upstream:
    """Keeps one endpoint connected. `changed` is called at each change of its connectivity state."""

    def __init__(self, endpoint: EtcdEndpoint, options: Options, changed: Callable[[], None]) -> None:
        self.endpoint = endpoint
        self._options = options
        self._changed = changed
        self._files = tls.Tls(options.cert_file, options.key_file, options.ca_file)
        self._stamps = tls.stamps(self._files)
        self._relay = InsecureTlsRelay(endpoint, options) if endpoint.tls and options.skip_verify else None
        self._channel: grpc.aio.Channel | None = None
        self._unary: dict[str, Any] = {}
        self._following: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Starts to connect. Raises OSError, ssl.SSLError when a TLS file cannot be read."""
        if self._relay is not None:
            await self._relay.start()
        self._channel = self._new_channel()
        self._following = asyncio.create_task(self._follow(), name=f"etcd {self.endpoint}")

    def _new_channel(self) -> grpc.aio.Channel:
        if self._relay is not None:
            # etcd must see the same :authority as without the relay.
            options = [*_OPTIONS, ("grpc.default_authority", str(self.endpoint))]
            return grpc.aio.insecure_channel(self._relay.target, options)
        if self.endpoint.tls:
            return grpc.aio.secure_channel(self.endpoint.target, credentials(self._options), _OPTIONS)
        return grpc.aio.insecure_channel(self.endpoint.target, _OPTIONS)

    @property
    def channel(self) -> grpc.aio.Channel:
        assert self._channel is not None
        return self._channel

    @property
    def state(self) -> grpc.ChannelConnectivity:
        return self.channel.get_state()

    def why_not(self, said: str) -> str:
        """The endpoint, and why it is not connected; `said` is the error text of a failed call."""
        return reason(self.endpoint, (self._relay.trouble if self._relay else "") or said)

    def unary(self, path: str) -> Any:
        """grpcio's multi-callable for this method; request and response are bytes."""
        call = self._unary.get(path)
        if call is None:
            call = self._unary[path] = self.channel.unary_unary(path)
        return call

    def streaming(self, path: str) -> Any:
        return self.channel.stream_stream(path)

    async def _follow(self) -> None:
        was_ready = False
        while True:
            state = self.channel.get_state(try_to_connect=True)
            if state is READY or (was_ready and state is not READY):
                message = (
                    "connected to etcd" if state is READY else "connection to etcd lost, connecting anew"
                )
                level = logging.INFO if state is READY else logging.WARNING
                log.log(level, message, extra=fields(address=str(self.endpoint)))
            was_ready = state is READY
            self._changed()
            if not was_ready:
                await self._renew()
            await self.channel.wait_for_state_change(state)

    async def _renew(self) -> None:
        """Replaces the channel if the TLS files have changed, as a channel keeps its first certificates."""
        if not self.endpoint.tls or self._relay is not None:
            return
        found = tls.stamps(self._files)
        if found == self._stamps:
            return
        try:
            renewed = self._new_channel()
        except (OSError, ValueError) as error:  # half written; retried at the next state change
            log.warning("renewed certificate not usable yet", extra=fields(error=type(error).__name__))
            return
        self._stamps = found
        old, self._channel = self.channel, renewed
        self._unary.clear()
        await old.close()
        log.info("certificate towards etcd renewed", extra=fields(address=str(self.endpoint)))

    async def close(self) -> None:
        if self._following is not None:
            self._following.cancel()
        if self._channel is not None:
            await self._channel.close()
        if self._relay is not None:
            await self._relay.stop()


def credentials(options: Options) -> grpc.ChannelCredentials:
    """The TLS credentials. Raises OSError when a file cannot be read, ssl.SSLError when it is not valid."""
    context = ssl.create_default_context()
    if options.cert_file:
        # Checked here, as grpcio would fail only when it connects, and not say why.
        context.load_cert_chain(options.cert_file, options.key_file, password=lambda: b"")
    # The system's CAs: grpcio's bundled list is as old as the package, and not the administrator's choice.
    authorities = options.ca_file or tls.system_authorities()
    return grpc.ssl_channel_credentials(
        _read(authorities) if authorities else None,
        _read(options.key_file) if options.key_file else None,
        _read(options.cert_file) if options.cert_file else None,
    )


def _read(file: str) -> bytes:
    with open(file, "rb") as opened:
        return opened.read()
