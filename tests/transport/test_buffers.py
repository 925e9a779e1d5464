"""Bytes handed to a connection's transport that still wait for the socket count as queued."""

from __future__ import annotations

from unittest.mock import Mock

from kine.transport.base import Limits
from kine.transport.http2.protocol import Http2Protocol
from kine.transport.http2.server import Http2Server

BUFFERED = 200_000


async def test_bytes_that_wait_for_the_socket_count_as_queued() -> None:
    server = Http2Server({}, [], None, Limits())
    shell = Http2Protocol(server)
    socket = Mock()
    socket.get_extra_info.return_value = None
    socket.is_closing.return_value = False
    socket.get_write_buffer_size.return_value = BUFFERED
    shell.connection_made(socket)

    shell.pause_writing()
    assert server.budget.queued == BUFFERED
    assert shell.account.taken == -BUFFERED  # they were counted as taken when they left the queue

    shell.resume_writing()
    assert server.budget.queued == shell.account.taken == 0

    shell.pause_writing()
    shell.connection_lost(None)
    assert server.budget.queued == 0
