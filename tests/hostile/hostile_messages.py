"""Requests of a hostile client: every field of every message with extreme values, and malformed bytes.

A corpus is generated from a seed: the same seed gives the same bytes, so that a failure can be replayed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from kine.proto import rpc_pb2 as pb

# None that a short run's revisions would reach: a future revision is one on every server.
EXTREMES = (0, 1, 2, 3, -1, -2, 2**31 - 1, 2**32, 2**62, 2**63 - 1, -(2**63))
INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (0, 1, -1, 2**31 - 1, -(2**31)),
    FieldDescriptor.CPPTYPE_INT64: EXTREMES,
    FieldDescriptor.CPPTYPE_UINT32: (0, 1, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 1, 2**63, 2**64 - 1),
}
KEYS = (
    b"", b"\0", b"/", b"//", b"/a", b"/a\0", b"/a/b", b"/b", b"k", b"K", b"k ", b"\xff", b"\xff\xff",
    b"a\xc3", "\u00e9".encode(), "e\u0301".encode(), b"compact_rev_key", b"compact_rev_key_apiserver",
    b"/registry/health", b"gap-5", b"'; DROP TABLE kine; --", b"%_\\", b"x" * 700, b"/meta", b"meta/a",
)  # fmt: skip
WORDS = ("", "root", "etcdserverpb.KV", "rpc.proto", "\0", "a\nb", "\u2028", "x" * 300)
DEEPEST = 3  # levels of nested messages; deeper ones are handwritten, see `deep`


class Sent(NamedTuple):
    """One request: `messages` has one for a unary call, one or more for a stream."""

    method: str  # its path
    messages: tuple[bytes, ...]

    def __str__(self) -> str:
        return f"{self.method} {[message.hex() for message in self.messages]}"


@dataclass(frozen=True, slots=True)
class Method:
    path: str
    request: Descriptor
    streaming: bool  # of either side

    @property
    def message(self) -> Any:
        return GetMessageClass(self.request)


def _methods(services: Any) -> list[Method]:
    found: list[MethodDescriptor] = [each for service in services for each in service.methods]
    return [
        Method(
            f"/{each.containing_service.full_name}/{each.name}",
            each.input_type,
            each.client_streaming or each.server_streaming,
        )
        for each in found
    ]


METHODS = [
    *_methods(pb.DESCRIPTOR.services_by_name.values()),
    *_methods(health_pb2.DESCRIPTOR.services_by_name.values()),
    *_methods(reflection_pb2.DESCRIPTOR.services_by_name.values()),
]
METHODS += [
    Method("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", METHODS[-1].request, True),
    Method("/etcdserverpb.KV/NoSuch", pb.RangeRequest.DESCRIPTOR, False),
    Method("/no.such.Service/Call", pb.RangeRequest.DESCRIPTOR, False),
    Method("/v3lockpb.Lock/Lock", pb.RangeRequest.DESCRIPTOR, False),
]


# ---- messages, by their descriptors


def _scalars(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    kind = field.cpp_type
    if kind in INTEGERS:
        return st.sampled_from(INTEGERS[kind])
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        known = [value.number for value in field.enum_type.values]
        return st.sampled_from([*known, *known, -1, 99, 2**31 - 1])
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    assert kind == FieldDescriptor.CPPTYPE_STRING, field.full_name
    if field.type == FieldDescriptor.TYPE_STRING:
        return st.sampled_from(WORDS)
    return st.sampled_from(KEYS) | st.binary(max_size=12)


@cache
def messages(kind: Descriptor, depth: int = 0) -> st.SearchStrategy[Any]:
    """Messages of this type in which every field may be set, to any value of its type."""
    choices: dict[str, st.SearchStrategy[Any]] = {}
    for field in kind.fields:
        if field.message_type is None:
            values = _scalars(field)
        elif depth < DEEPEST:
            values = messages(field.message_type, depth + 1)
        else:
            continue
        choices[field.name] = st.lists(values, max_size=3) if field.is_repeated else values
    make = GetMessageClass(kind)
    # In a oneof the field set last wins, so one is chosen: each has its chance.
    # Without a key most messages are refused at once: it is nearly always there.
    given = {"key": choices.pop("key")} if "key" in choices else {}
    return st.fixed_dictionaries(given, optional=choices).map(
        lambda chosen: make(**_one_of_each(kind, chosen))
    )


def _one_of_each(kind: Descriptor, chosen: dict[str, Any]) -> dict[str, Any]:
    for union in kind.oneofs:
        named = [field.name for field in union.fields if field.name in chosen]
        # Chosen by what else was drawn, so that it is not always the same one.
        stays = named[len(str(chosen)) % len(named)] if named else ""
        for name in named:
            if name != stays:
                del chosen[name]
    return chosen


# ---- bytes that may be no message


def _flip(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data) or 1)
    return data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]


def _cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def _twice(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[:at] + data[at:] * 2


def _noise(data: bytes, chance: random.Random) -> bytes:
    return chance.randbytes(chance.randrange(40))


def _unknown_fields(data: bytes, chance: random.Random) -> bytes:
    number = chance.choice([100, 2_000, 2**29 - 1])
    several = b"".join(
        [varint(number << 3) + varint(chance.choice(EXTREMES) % 2**64), varint(number << 3 | 2) + b"\2ab"]
    )
    return data + several * chance.choice([1, 3, 500])


def _groups(data: bytes, chance: random.Random) -> bytes:
    depth = chance.choice([1, 50, 99, 101, 5_000])
    return data + b"\xab\x06" * depth + b"\xac\x06" * (depth - chance.randrange(2))


def _long_varint(data: bytes, chance: random.Random) -> bytes:
    return data + b"\x18" + b"\xff" * chance.choice([9, 10, 11, 40]) + b"\x01"


MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _flip, _flip, _flip, _cut, _twice, _noise, _unknown_fields, _groups, _long_varint,
)  # fmt: skip


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


# ---- the deep and the many


def deep(depth: int, *, branches: int = 1) -> bytes:
    """A Txn nested `depth` times; encoded by hand, as protobuf's own encoder has a limit too."""
    encoded = pb.TxnRequest(
        success=[pb.RequestOp(request_put=pb.PutRequest(key=b"/deep"))]
    ).SerializeToString()
    for _ in range(depth):
        inner = b"\x22" + varint(len(encoded)) + encoded  # RequestOp.request_txn
        encoded = (b"\x12" + varint(len(inner)) + inner) * branches  # TxnRequest.success
    return encoded


def _made_on_purpose() -> list[Sent]:
    txn, put, get = "/etcdserverpb.KV/Txn", b"\x12\x05\x12\x03\x0a\x01k", b"\x12\x05\x0a\x03\x0a\x01k"
    compare = pb.TxnRequest(compare=[pb.Compare(key=b"k", target=pb.Compare.MOD, value=b"9")])
    return [
        *(Sent(txn, (deep(depth),)) for depth in (1, 2, 20, 45, 48, 49, 50, 51, 99, 100, 101, 130, 2_000)),
        Sent(txn, (deep(7, branches=3),)),
        Sent(txn, (deep(12, branches=2),)),
        *(Sent(txn, (op * count,)) for op in (put, get) for count in (127, 128, 129, 5_000)),
        Sent(txn, (b"\x12\x00" * 128,)),  # operations that are none
        Sent(txn, (b"\x12\x00" * 100_000,)),
        Sent(txn, (b"\x12\x02\x22\x00" * 128,)),  # empty transactions
        Sent(txn, (compare.SerializeToString() * 128,)),
        Sent(txn, (b"\x12\x0a\x12\x03\x0a\x01k\x0a\x03\x0a\x01k",)),  # both of a oneof: the later counts
        Sent("/etcdserverpb.Watch/Watch", (b"",) * 500),
        Sent("/etcdserverpb.Watch/Watch", (b"\x0a\x04\x0a\x02/w",) * 500),
        Sent("/etcdserverpb.Watch/Watch", (b"\x0a\x00" + b"\x2a\x02\x00\x01" * 1_000,)),
        Sent("/etcdserverpb.Lease/LeaseKeepAlive", (b"\x08\x01",) * 500),
    ]


# ---- a corpus


def corpus(seed: int, each: int) -> list[Sent]:
    """`each` valid messages of every method, as many mutated ones, and the handwritten ones."""
    chance = random.Random(seed)
    sent = _made_on_purpose()
    for number, method in enumerate(METHODS):
        for made in _drawn(messages(method.request), seed + number, each):
            sent.append(Sent(method.path, (made,)))
            mutated = made
            for _ in range(chance.choice([1, 1, 2, 5])):
                mutated = chance.choice(MUTATIONS)(mutated, chance)
            first = (made,) if method.streaming and chance.random() < 0.5 else ()
            sent.append(Sent(method.path, (*first, mutated)))
    chance.shuffle(sent)
    return sent


def _drawn(strategy: st.SearchStrategy[Any], seed: int, count: int) -> list[bytes]:
    drawn: list[bytes] = []

    @seeded(seed)
    @settings(
        max_examples=count,
        database=None,
        derandomize=False,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(message: Any) -> None:
        drawn.append(message.SerializeToString())

    collect()
    return drawn
