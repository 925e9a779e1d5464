"""The metrics server, over real connections."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trustme

from kine.address import Address
from kine.config import Settings
from kine.observe import metrics_server
from kine.observe.metrics_server import MetricsServer
from kine.tls import Tls
from tests.in_process_server import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path


async def ready() -> str:
    return ""


@asynccontextmanager
async def serving(
    ready: Callable[[], Awaitable[str]] = ready, tls: Tls | None = None, *, enable_profiling: bool = False
) -> AsyncIterator[int]:
    server = MetricsServer(Address("127.0.0.1", 0), ready, tls, enable_profiling=enable_profiling)
    bound = await server.start()
    try:
        yield int(bound.rpartition(":")[2])
    finally:
        await server.stop()


async def exchange(port: int, request: bytes, context: ssl.SSLContext | None = None) -> tuple[str, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        writer.write(request)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        return head.decode(), body
    finally:
        writer.close()


async def get(port: int, target: str) -> tuple[str, bytes]:
    return await exchange(port, f"GET {target} HTTP/1.1\r\nConnection: close\r\n\r\n".encode())


async def test_metrics_are_served() -> None:
    async with serving() as port:
        head, body = await get(port, "/metrics")

    assert head.startswith("HTTP/1.1 200 OK")
    assert "Content-Type: text/plain; version=" in head
    assert b"kine_compact_total" in body


async def test_healthz_says_ok() -> None:
    async with serving() as port:
        head, body = await get(port, "/healthz")

    assert (head[:12], body) == ("HTTP/1.1 200", b"ok\n")


async def test_readyz_says_why_not() -> None:
    async def loading() -> str:
        return "loading the index"

    async with serving(loading) as port:
        head, body = await get(port, "/readyz")

    assert (head[:12], body) == ("HTTP/1.1 503", b"loading the index\n")


async def test_readyz_does_not_wait_for_a_database_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "READY_TIMEOUT", 0.01)

    async def hanging() -> str:
        return await asyncio.get_running_loop().create_future()

    async with serving(hanging) as port:
        head, body = await get(port, "/readyz")

    assert head[:12] == "HTTP/1.1 503"
    assert b"has not answered" in body


async def test_readyz_that_fails_is_answered_without_its_reason() -> None:
    async def failing() -> str:
        raise RuntimeError("hunter22")

    async with serving(failing) as port:
        head, body = await get(port, "/readyz")

    assert head[:12] == "HTTP/1.1 500"
    assert b"hunter22" not in body


async def test_connection_is_kept_for_the_next_request() -> None:
    async with serving() as port:
        answer = await exchange(
            port, b"GET /healthz HTTP/1.1\r\n\r\nHEAD /healthz HTTP/1.1\r\nConnection: close\r\n\r\n"
        )

    assert answer[1].count(b"HTTP/1.1 200 OK") == 1
    assert answer[1].startswith(b"ok\nHTTP/1.1")
    assert answer[1].endswith(b"Connection: close\r\n\r\n")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /nothing HTTP/1.1\r\nConnection: close\r\n\r\n", 404),
        (b"GET /debug/pprof/ HTTP/1.1\r\nConnection: close\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\n\r\n", 405),
        (b"GET /metrics HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", 400),
        (b"GET /metrics HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"GET http://[ HTTP/1.1\r\n\r\n", 400),
        (b"GET //[ HTTP/1.1\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\n", 400),
        (b"\r\n\r\n\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", 431),
    ],
)
async def test_what_is_not_served_is_refused(request_: bytes, status: int) -> None:
    async with serving() as port:
        head, _ = await exchange(port, request_)

    assert head.startswith(f"HTTP/1.1 {status} ")


async def test_half_a_request_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "REQUEST_TIMEOUT", 0.05)

    async with serving() as port:
        answer = await exchange(port, b"GET /metrics HTTP/1.1\r\n")

    assert answer == ("", b"")


async def test_connection_without_a_request_for_longest_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "MAX_CONNECTIONS", 2)

    async with serving() as port:
        silent = await asyncio.open_connection("127.0.0.1", port)
        asking = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(3):
            asking[1].write(b"GET /healthz HTTP/1.1\r\n\r\n")
            await asking[0].readuntil(b"ok\n")
            assert (await get(port, "/healthz"))[1] == b"ok\n"

        with contextlib.suppress(ConnectionResetError):
            assert await silent[0].read() == b""
        for _, writer in (silent, asking):
            writer.close()


async def test_clients_port_counts_its_connections_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "MAX_CONNECTIONS", 1)
    server = MetricsServer(Address("127.0.0.1", 0), ready)
    port = int((await server.start()).rpartition(":")[2])
    clients = await asyncio.start_server(server.serve_client, "127.0.0.1", 0)
    probe = await asyncio.open_connection("127.0.0.1", port)
    probe[1].write(b"GET /healthz HTTP/1.1\r\n\r\n")
    await probe[0].readuntil(b"ok\n")

    for _ in range(3):
        assert (await get(clients.sockets[0].getsockname()[1], "/healthz"))[1] == b"ok\n"
    probe[1].write(b"GET /healthz HTTP/1.1\r\n\r\n")
    await probe[0].readuntil(b"ok\n")
    probe[1].close()
    clients.close()
    await server.stop()


async def test_silent_connection_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "IDLE_TIMEOUT", 0.05)

    async with serving() as port:
        head, body = await exchange(port, b"GET /healthz HTTP/1.1\r\n\r\n")

    assert body == b"ok\n"
    assert "keep-alive" in head


async def test_stop_closes_idle_connections() -> None:
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /healthz HTTP/1.1\r\n\r\n")
        await reader.readuntil(b"ok\n")

    assert await reader.read() == b""
    writer.close()


async def test_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    both = str(tmp_path / "both.pem")

    async with serving(tls=Tls(both, both)) as port:
        head, body = await exchange(port, b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n", context)

    assert (head[:12], body) == ("HTTP/1.1 200", b"ok\n")


async def test_port_in_use_is_an_os_error() -> None:
    async with serving() as port:
        with pytest.raises(OSError, match="address already in use"):
            await MetricsServer(Address("127.0.0.1", port), ready).start()


@pytest.mark.parametrize(
    ("page", "shows"),
    [
        ("", b"/debug/pprof/threads"),
        ("threads", b"MainThread"),
        ("tasks", b"tasks\n"),
        ("gc", b"generation 2"),
        ("heap?seconds=1", b"bytes held"),
        ("profile?seconds=1&hertz=50", b"MainThread;"),
    ],
)
async def test_profiles(page: str, shows: bytes) -> None:
    async with serving(enable_profiling=True) as port:
        head, body = await get(port, f"/debug/pprof/{page}")

    assert head.startswith("HTTP/1.1 200 ")
    assert shows in body


@pytest.mark.parametrize(("certified", "status"), [(True, 200), (False, 403)])
async def test_profiles_over_tls_need_the_clients_certificate(
    tmp_path: Path, certified: bool, status: int
) -> None:
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if certified:
        authority.issue_cert("client").configure_cert(context)
    both = str(tmp_path / "both.pem")
    chosen = Settings(
        server_cert_file=both,
        server_key_file=both,
        trusted_ca_file=str(tmp_path / "ca.pem"),
        metrics_enable_profiling=True,
    )

    async with serving(tls=chosen.metrics_tls(), enable_profiling=True) as port:
        for path, expected in (("/healthz", 200), ("/metrics", 200), ("/debug/pprof/tasks", status)):
            request = f"GET {path} HTTP/1.1\r\nConnection: close\r\n\r\n".encode()
            head, _ = await exchange(port, request, context)
            assert head.startswith(f"HTTP/1.1 {expected} "), path


@pytest.mark.parametrize("query", ["seconds=0", "seconds=61", "seconds=x", "hertz=1001", "seconds=%D9%A3"])
async def test_profile_out_of_bounds_is_refused(query: str) -> None:
    async with serving(enable_profiling=True) as port:
        head, _ = await get(port, f"/debug/pprof/profile?{query}")

    assert head.startswith("HTTP/1.1 400 ")


async def test_one_profile_at_a_time() -> None:
    async with serving(enable_profiling=True) as port:
        answers = await asyncio.gather(*(get(port, "/debug/pprof/profile?seconds=1") for _ in range(2)))

    assert sorted(head[:12] for head, _ in answers) == ["HTTP/1.1 200", "HTTP/1.1 429"]


def sampling() -> bool:
    """Whether a profile is being taken."""
    return any(thread.name == "profile" for thread in threading.enumerate())


async def begin_profile(port: int) -> asyncio.StreamWriter:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /debug/pprof/profile?seconds=60&hertz=1 HTTP/1.1\r\n\r\n")
    await until(sampling)
    return writer


async def test_profile_ends_with_its_client() -> None:
    async with serving(enable_profiling=True) as port:
        writer = await begin_profile(port)
        writer.close()
        await until(lambda: not sampling())
        head, _ = await get(port, "/debug/pprof/profile?seconds=1")

    assert head.startswith("HTTP/1.1 200 ")


async def test_profile_ends_with_the_server() -> None:
    async with serving(enable_profiling=True) as port:
        writer = await begin_profile(port)
    await until(lambda: not sampling())
    writer.close()


async def test_request_sent_while_a_profile_is_made_is_answered_after_it() -> None:
    async with serving(enable_profiling=True) as port:
        request = b"GET %s HTTP/1.1\r\n\r\n"
        last = b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n"
        _, body = await exchange(port, request % b"/debug/pprof/profile?seconds=1" + last)

    assert b"MainThread;" in body
    assert body.endswith(b"\r\n\r\nok\n")
