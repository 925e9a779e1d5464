"""The one table from what can go wrong to what etcd's clients match on.

Codes and texts: etcd, api/v3rpc/rpctypes/error.go.
"""

from __future__ import annotations

from google.protobuf.message import DecodeError

from kine.drivers import base as drivers
from kine.store import ops as store
from kine.transport.base import Code, RpcError


def empty_key() -> RpcError:
    return RpcError(Code.INVALID_ARGUMENT, "etcdserver: key is not provided")


def key_not_found() -> RpcError:
    return RpcError(Code.INVALID_ARGUMENT, "etcdserver: key not found")


def value_provided() -> RpcError:
    return RpcError(Code.INVALID_ARGUMENT, "etcdserver: value is provided")


def lease_provided() -> RpcError:
    return RpcError(Code.INVALID_ARGUMENT, "etcdserver: lease is provided")


def too_many_ops() -> RpcError:
    return RpcError(Code.INVALID_ARGUMENT, "etcdserver: too many operations in txn request")


def duplicate_key() -> RpcError:
    return RpcError(Code.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request")


def invalid_sort_option() -> RpcError:
    return RpcError(Code.INVALID_ARGUMENT, "etcdserver: invalid sort option")


def request_too_large() -> RpcError:
    return RpcError(Code.INVALID_ARGUMENT, "etcdserver: request is too large")


def lease_ttl_too_large() -> RpcError:
    return RpcError(Code.OUT_OF_RANGE, "etcdserver: too large lease TTL")


def stopped() -> RpcError:
    return RpcError(Code.UNAVAILABLE, "etcdserver: server stopped")


def unsupported(what: str, why: str) -> RpcError:
    return RpcError(Code.UNIMPLEMENTED, f"etcdserver: {what} is not supported by kine: {why}")


COMPACTED = "etcdserver: mvcc: required revision has been compacted"

_TABLE: dict[type[Exception], tuple[Code, str]] = {
    store.CompactedError: (Code.OUT_OF_RANGE, COMPACTED),
    store.FutureRevisionError: (
        Code.OUT_OF_RANGE,
        "etcdserver: mvcc: required revision is a future revision",
    ),
    store.LeaseNotFoundError: (Code.NOT_FOUND, "etcdserver: requested lease not found"),
    store.LeaseExistsError: (Code.FAILED_PRECONDITION, "etcdserver: lease already exists"),
    store.KeyNotFoundError: (Code.INVALID_ARGUMENT, "etcdserver: key not found"),
    store.ReservedKeyError: (
        Code.INVALID_ARGUMENT,
        "etcdserver: compact_rev_key_apiserver is where kine keeps compact_rev_key: write that",
    ),
    store.DuplicateKeyError: (Code.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request"),
    store.TooManyRequestsError: (Code.RESOURCE_EXHAUSTED, "etcdserver: too many requests"),
    store.TimedOutError: (Code.UNAVAILABLE, "etcdserver: request timed out"),
    drivers.NoSpaceError: (Code.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded"),
    drivers.UnknownOutcomeError: (Code.UNAVAILABLE, "etcdserver: request timed out"),
    drivers.BehindError: (Code.UNAVAILABLE, "etcdserver: request timed out"),
    drivers.UnavailableError: (Code.UNAVAILABLE, "etcdserver: unhealthy cluster"),
    drivers.DriverError: (Code.UNAVAILABLE, "etcdserver: unhealthy cluster"),
    DecodeError: (
        Code.INTERNAL,
        "grpc: error unmarshalling request: no message of its type, or nested over 100 deep",
    ),
}

KNOWN = (store.StoreError, drivers.DriverError, DecodeError)


def rpc_error(error: Exception) -> RpcError:
    """For an error of one of the `KNOWN` kinds."""
    if isinstance(error, drivers.InvalidKeyError):
        return RpcError(Code.INVALID_ARGUMENT, f"etcdserver: {error}")
    code, text = _TABLE[type(error)]
    return RpcError(code, text)
