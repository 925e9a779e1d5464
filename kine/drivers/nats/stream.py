"""A KV bucket's JetStream stream: configuration, reads by sequence and by subject, and purges."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from base64 import b64decode
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from nats.aio.msg import Msg

from kine.drivers.base import UnavailableError
from kine.drivers.nats.failures import (
    MESSAGE_NOT_FOUND,
    STREAM_NAME_IN_USE,
    STREAM_NOT_FOUND,
    LostError,
    NatsRefusedError,
    NoRespondersError,
    UnansweredError,
)
from kine.drivers.nats.row_messages import RowMessage

if TYPE_CHECKING:
    from kine.drivers.nats.client import Answer, NatsClient

T = TypeVar("T")

_PULL = 500  # messages per pull request
_PULL_BYTES = 8 * 1024 * 1024
_SILENCE = 10.0  # seconds a consumer may take for the next message
_AT_ONCE = 256  # concurrent requests
_CATCHING_UP = 5.0  # seconds for a new consumer to be found, or for its replica to catch up
_BELIEVED = 3 * 10**9  # nanoseconds since a follower's last response; heartbeats are sent each second
_ASKED, _UNTIL_FOLLOWED = 5, 0.2  # attempts, and seconds between: followers answer a new leader soon
# Quotation marks within JSON strings are escaped, so these only match names.
_LAST_SEQUENCE = re.compile(rb'"last_seq":\s*(\d+)')
_REPLICAS = b'"replicas":'
_AGAIN = 0.2  # seconds between retries of a request without an answer
LAGGING = 0.02  # seconds between retries while a replica lags


class JetStreamStream:
    """The stream of a KV bucket."""

    def __init__(self, client: NatsClient, bucket: str) -> None:
        self.client = client
        self.name = f"KV_{bucket}"
        self.prefix = f"$KV.{bucket}."
        self.config: dict[str, Any] = {}
        self._info = f"$JS.API.STREAM.INFO.{self.name}"

    # ---- the stream itself

    async def info(self) -> dict[str, Any]:
        return await answered(self.client.api(f"STREAM.INFO.{self.name}"))

    async def ensure(self, history: int, replicas: int, description: str) -> None:
        """Creates the bucket, with Go kine's settings, if it does not exist.

        Raises NatsRefusedError, UnavailableError, LostError, NoRespondersError.
        """
        try:
            self.config = (await self.client.api(f"STREAM.INFO.{self.name}"))["config"]
        except NatsRefusedError as error:
            if error.code != STREAM_NOT_FOUND:
                raise
            config = {
                "name": self.name,
                "description": description,
                "subjects": [f"{self.prefix}>"],
                "retention": "limits",
                "storage": "file",
                "discard": "new",
                "max_msgs_per_subject": history,
                "max_msgs": -1,
                "max_bytes": -1,
                "max_msg_size": -1,
                "max_consumers": -1,
                "num_replicas": replicas,
                "duplicate_window": 120 * 10**9,
                "allow_rollup_hdrs": True,
                "deny_delete": True,
                "allow_direct": True,
            }
            try:
                answer = await self.client.api(f"STREAM.CREATE.{self.name}", **config)
            except NatsRefusedError as refused:
                if refused.code != STREAM_NAME_IN_USE:
                    raise
                answer = await self.client.api(f"STREAM.INFO.{self.name}")
            self.config = answer["config"]
        if not self.config.get("allow_direct"):
            await self.configure(allow_direct=True)

    async def configure(self, **changes: object) -> None:
        """Changes settings of the stream where they differ.

        Raises NatsRefusedError, UnavailableError, LostError, NoRespondersError.
        """
        current = (await self.client.api(f"STREAM.INFO.{self.name}"))["config"]
        if any(current.get(name, False) != value for name, value in changes.items()):
            answer = await self.client.api(f"STREAM.UPDATE.{self.name}", **{**current, **changes})
            current = answer["config"]
        self.config = current

    async def last_sequence(self) -> int:
        """The last sequence, from a leader that cannot have been replaced. Raises DriverError.

        A leader that is cut off answers until it notices, ten seconds later or more. The others elect a new
        one after four seconds at the earliest (nats-server, server/raft.go).
        """
        for _ in range(_ASKED):
            if (newest := _believed(await self.info())) is not None:
                return newest
            await asyncio.sleep(_UNTIL_FOLLOWED)
        raise UnavailableError("the NATS stream's leader has lost touch with the others: it may be cut off")

    def ask_last_sequence(self, told: Callable[[Answer], None]) -> bool:
        """Requests the last sequence by `NatsClient.put`; `last_sequence_of` parses the reply."""
        return self.client.put(self._info, b"", told)

    # ---- reading

    async def get(self, **which: object) -> RowMessage | None:
        """One message from the leader, by `seq`, `last_by_subj`, or `seq` and `next_by_subj`.

        Returns None if there is none. Raises NatsRefusedError, UnavailableError, LostError,
        NoRespondersError.
        """
        for name in ("last_by_subj", "next_by_subj"):
            if name in which:
                which[name] = f"{self.prefix}{which[name]}"
        try:
            answer = await self.client.api(f"STREAM.MSG.GET.{self.name}", **which)
        except NatsRefusedError as error:
            if error.code == MESSAGE_NOT_FOUND:
                return None
            raise
        found = answer["message"]
        return RowMessage(
            int(found["seq"]),
            found["subject"][len(self.prefix) :],
            _parsed(b64decode(found.get("hdrs") or "")),
            b64decode(found.get("data") or ""),
        )

    async def subjects(self) -> set[str]:
        """All subjects that have a message, without the bucket's prefix.

        Raises NatsRefusedError, UnavailableError, LostError, NoRespondersError.
        """
        found: set[str] = set()
        offset = 0
        while True:
            told = await self.client.api(
                f"STREAM.INFO.{self.name}", subjects_filter=f"{self.prefix}>", offset=offset
            )
            page = told["state"].get("subjects") or {}
            found.update(subject[len(self.prefix) :] for subject in page)
            offset += len(page)
            if not page or offset >= int(told.get("total", 0)):
                return found

    async def direct(self, sequences: Sequence[int]) -> dict[int, RowMessage]:
        """Messages by sequence, without those that do not exist. Any replica may answer."""
        found: dict[int, RowMessage] = {}
        for start in range(0, len(sequences), _AT_ONCE):
            block = sequences[start : start + _AT_ONCE]
            answers = await asyncio.gather(
                *(
                    self.client.ask(f"$JS.API.DIRECT.GET.{self.name}", b'{"seq":%d}' % sequence)
                    for sequence in block
                )
            )
            for sequence, answer in zip(block, answers, strict=True):
                if not _status(answer):
                    found[sequence] = self._direct_message(answer)
        # A lagging replica may lack a message that the leader has.
        if int(self.config.get("num_replicas", 1)) > 1:
            for sequence in sequences:
                if sequence not in found:
                    message = await self.get(seq=sequence)
                    if message is not None:
                        found[sequence] = message
        return found

    async def batch(self, after: int, limit: int) -> list[RowMessage]:
        """The next messages after a sequence, at most `limit`, from any replica (servers from 2.11)."""
        body = {"seq": after + 1, "next_by_subj": f"{self.prefix}>", "batch": limit, "max_bytes": _PULL_BYTES}
        answers = await self.client.ask_many(
            f"$JS.API.DIRECT.GET.{self.name}", json.dumps(body).encode(), lambda answer: bool(_status(answer))
        )
        if any(_status(answer) == "503" for answer in answers):
            raise NoRespondersError
        return [self._direct_message(answer) for answer in answers if not _status(answer)]

    def _direct_message(self, answer: Msg) -> RowMessage:
        headers = answer.headers or {}
        return RowMessage(
            int(headers["Nats-Sequence"]), headers["Nats-Subject"][len(self.prefix) :], headers, answer.data
        )

    async def read(
        self, after: int, *, filtered: str = ">", headers_only: bool = False, upto: int = 0
    ) -> AsyncIterator[list[RowMessage]]:
        """All messages after a sequence, in blocks, by an ephemeral consumer: any server version has these.

        Reads up to `upto`, or at least up to the message that is the newest at the start.
        """
        client = self.client
        goal = upto or await self.last_sequence()
        position = after
        name = f"kine{secrets.token_hex(8)}"
        inbox = client.new_inbox()
        arrived: asyncio.Queue[Answer] = asyncio.Queue()
        end = await client.subscribe(inbox, arrived.put)
        try:
            created = await client.api(
                f"CONSUMER.CREATE.{self.name}.{name}",
                stream_name=self.name,
                config={
                    "name": name,
                    "deliver_policy": "by_start_sequence",
                    "opt_start_seq": after + 1,
                    "ack_policy": "none",
                    "replay_policy": "instant",
                    "filter_subject": f"{self.prefix}{filtered}",
                    "headers_only": headers_only,
                    "mem_storage": True,
                    "num_replicas": 1,
                    "inactive_threshold": 60 * 10**9,
                },
            )
            pending = int(created["num_pending"])
            pull = json.dumps({"batch": _PULL, "max_bytes": _PULL_BYTES, "no_wait": True}).encode()
            loop = asyncio.get_running_loop()
            deadline = loop.time() + _CATCHING_UP
            while pending or await self._has_more(position, goal, filtered):
                more = f"$JS.API.CONSUMER.MSG.NEXT.{self.name}.{name}"
                await client.publish(more, pull, reply=inbox)
                block: list[RowMessage] = []
                while len(block) < _PULL:
                    with client.refusing(more, arrived.put_nowait):
                        async with asyncio.timeout(_SILENCE):
                            answer = await arrived.get()
                    if not isinstance(answer, Msg):
                        raise answer
                    if status := _status(answer):
                        # 503: the consumer is not known in the cluster yet. 404: no more messages exist.
                        if loop.time() > deadline:
                            raise NoRespondersError if status == "503" else LostError
                        if status == "404":
                            pending = 0
                        await asyncio.sleep(LAGGING)
                        break
                    sequence, pending = _numbers(answer.reply)
                    position = sequence
                    if upto and sequence > upto:
                        pending = 0
                        break
                    block.append(
                        RowMessage(
                            sequence, answer.subject[len(self.prefix) :], answer.headers or {}, answer.data
                        )
                    )
                    if not pending:
                        break
                if block:
                    yield block
                    deadline = loop.time() + _CATCHING_UP
        except TimeoutError:
            raise LostError from None
        finally:
            await end()

    async def _has_more(self, position: int, goal: int, filtered: str) -> bool:
        """Asks the leader whether more messages exist: a consumer on a lagging replica does not know."""
        if position >= goal or int(self.config.get("num_replicas", 1)) == 1:
            return False
        found = await self.get(seq=position + 1, next_by_subj=filtered)
        return found is not None and found.sequence <= goal

    # ---- removing

    async def purge(self, subject: str, before: int = 0) -> int:
        """Removes a subject's messages, or those before a sequence; returns the number removed."""
        body: dict[str, object] = {"filter": f"{self.prefix}{subject}"}
        if before:
            body["seq"] = before
        return int((await self.client.api(f"STREAM.PURGE.{self.name}", **body)).get("purged", 0))

    async def purge_before(self, sequence: int) -> None:
        """Removes everything before a sequence; a future one becomes the next message's sequence."""
        await self.client.api(f"STREAM.PURGE.{self.name}", seq=sequence)


def last_sequence_of(answer: Msg) -> int | None:
    """The last sequence of a STREAM.INFO response; None for an error, or if its leader may be replaced.

    Without replicas there is no leader to check. A regular expression then saves the parsing, 5 us.
    """
    if _REPLICAS in answer.data:
        try:
            return _believed(json.loads(answer.data))
        except (ValueError, LookupError, TypeError):
            return None
    found = _LAST_SEQUENCE.search(answer.data)
    return None if found is None else int(found[1])


async def answered(work: Awaitable[T]) -> T:
    """Awaits a request, and translates its errors to DriverError.

    For requests that are read-only or may be repeated: a lost reply becomes UnavailableError.
    """
    try:
        return await work
    except NatsRefusedError as error:
        raise error.translated() from error
    except LostError as error:
        raise error.translated() from None
    except NoRespondersError:
        raise UnavailableError("JetStream does not answer: it is off, or its cluster has no leader") from None


async def answered_in(seconds: float, ask: Callable[[], Awaitable[T]]) -> T:
    """As `answered`, with retries for `seconds` while there is no answer: the server may be busy."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while True:
        try:
            return await answered(ask())
        except UnansweredError:
            if loop.time() > until:
                raise
        await asyncio.sleep(_AGAIN)


def _believed(info: dict[str, Any]) -> int | None:
    """The last sequence; None if the server that sent `info` may not be the leader any more."""
    return int(info["state"]["last_seq"]) if _leads(info.get("cluster") or {}) else None


def _leads(cluster: dict[str, Any]) -> bool:
    """Whether the responding server still leads, and a majority including itself has answered it recently."""
    others = cluster.get("replicas") or ()
    if others and cluster.get("leader") in ("", None, *(other["name"] for other in others)):
        return False  # it has heard of another leader, and is about to step down
    following = sum(0 < other["active"] < _BELIEVED and not other.get("offline") for other in others)
    return bool((following + 1) * 2 > len(others) + 1)


def _status(answer: Msg) -> str:
    return str(answer.headers.get("Status", "")) if answer.headers else ""


def _numbers(reply: str) -> tuple[int, int]:
    """The stream sequence and the number of pending messages, from a delivery's reply subject."""
    tokens = reply.split(".")
    return (int(tokens[5]), int(tokens[8])) if len(tokens) == 9 else (int(tokens[7]), int(tokens[10]))


def _parsed(raw: bytes) -> dict[str, str]:
    headers = {}
    for line in raw.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            headers[name.decode()] = value.strip().decode()
    return headers
