"""The one table from what can go wrong to what etcd's clients match on.

Codes and texts: etcd, api/v3rpc/rpctypes/error.go.
"""

from __future__ import annotations

import logging
import time

from google.protobuf.message import DecodeError

from kine.store import errors as store
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


def auth_not_enabled() -> RpcError:
    return RpcError(Code.FAILED_PRECONDITION, "etcdserver: authentication is not enabled")


def no_root_user() -> RpcError:
    return RpcError(Code.FAILED_PRECONDITION, "etcdserver: root user does not exist")


def empty_user() -> RpcError:
    return RpcError(Code.INVALID_ARGUMENT, "etcdserver: user name is empty")


def user_not_found() -> RpcError:
    return RpcError(Code.FAILED_PRECONDITION, "etcdserver: user name not found")


def empty_role() -> RpcError:
    return RpcError(Code.INVALID_ARGUMENT, "etcdserver: role name is empty")


def role_not_found() -> RpcError:
    return RpcError(Code.FAILED_PRECONDITION, "etcdserver: role name not found")


def permission_not_given() -> RpcError:
    return RpcError(Code.INVALID_ARGUMENT, "etcdserver: permission not given")


def stream_order() -> RpcError:
    return RpcError(Code.UNIMPLEMENTED, "RangeStream does not support custom sort orders")


def stream_filters() -> RpcError:
    return RpcError(Code.UNIMPLEMENTED, "RangeStream does not support revision filters")


def snapshot_stalled(seconds: float) -> RpcError:
    return RpcError(
        Code.DEADLINE_EXCEEDED,
        f"etcdserver: the snapshot was given up: its client took next to nothing for {seconds:.0f} s",
    )


def stopped() -> RpcError:
    return RpcError(Code.UNAVAILABLE, "etcdserver: server stopped")


def unsupported(what: str, why: str) -> RpcError:
    return RpcError(Code.UNIMPLEMENTED, f"etcdserver: {what} is not supported by kine: {why}")


def too_many_watches(limit: int) -> str:
    """The reason for which a watch is not created."""
    return (
        f"etcdserver: this connection has {limit} watches open already: "
        "close some, use another connection, or raise --max-watches-per-connection"
    )


def no_room_for_watch() -> str:
    """Likewise."""
    return (
        "etcdserver: the watches and streams of this client, or of all, take the memory that they may: "
        "close some, or raise --max-queued-bytes"
    )


log = logging.getLogger(__name__)

_QUIET = 10.0  # seconds between two lines of one reason
_MOST = 100  # reasons
COMPACTED = "etcdserver: mvcc: required revision has been compacted"

_TABLE: dict[type[Exception], tuple[Code, str]] = {
    store.CompactedError: (Code.OUT_OF_RANGE, COMPACTED),
    store.FutureRevisionError: (
        Code.OUT_OF_RANGE,
        "etcdserver: mvcc: required revision is a future revision",
    ),
    store.LeaseNotFoundError: (Code.NOT_FOUND, "etcdserver: requested lease not found"),
    store.LeaseExistsError: (Code.FAILED_PRECONDITION, "etcdserver: lease already exists"),
    store.TooManyLeasesError: (
        Code.RESOURCE_EXHAUSTED,
        "etcdserver: too many leases are granted: revoke some, or raise kine's --max-leases",
    ),
    store.KeyNotFoundError: (Code.INVALID_ARGUMENT, "etcdserver: key not found"),
    store.ReservedKeyError: (
        Code.INVALID_ARGUMENT,
        "etcdserver: compact_rev_key_apiserver is where kine keeps compact_rev_key: write that",
    ),
    store.DuplicateKeyError: (Code.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request"),
    store.TooManyRequestsError: (Code.RESOURCE_EXHAUSTED, "etcdserver: too many requests"),
    store.TimedOutError: (Code.UNAVAILABLE, "etcdserver: request timed out"),
    store.NoSpaceError: (Code.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded"),
    store.UnknownOutcomeError: (Code.UNAVAILABLE, "etcdserver: request timed out"),
    store.BehindError: (Code.UNAVAILABLE, "etcdserver: request timed out"),
    store.UnavailableError: (Code.UNAVAILABLE, "etcdserver: unhealthy cluster"),
    store.RefusedError: (Code.UNAVAILABLE, "etcdserver: unhealthy cluster"),
    store.DriverError: (Code.UNAVAILABLE, "etcdserver: unhealthy cluster"),
    DecodeError: (
        Code.INTERNAL,
        "grpc: error unmarshalling request: no message of its type, or nested over 100 deep",
    ),
}

KNOWN = (store.StoreError, store.DriverError, DecodeError)


def rpc_error(error: Exception) -> RpcError:
    """For an error of one of the `KNOWN` kinds."""
    if isinstance(error, store.TooLargeError):
        return request_too_large()
    if isinstance(error, store.InvalidKeyError):
        return RpcError(Code.INVALID_ARGUMENT, f"etcdserver: {error}")
    if isinstance(error, store.BusyError | store.OutOfRevisionsError):
        return RpcError(Code.RESOURCE_EXHAUSTED, f"etcdserver: {error}")
    if isinstance(error, store.AnswerTooLargeError | store.TooMuchWorkError):
        return RpcError(Code.RESOURCE_EXHAUSTED, f"etcdserver: {error}")
    if isinstance(error, store.DriverError):
        _REASONS.note(str(error))
    code, text = next(_TABLE[kind] for kind in type(error).__mro__ if kind in _TABLE)
    return RpcError(code, text)


class _Reasons:
    """Why clients get an error whose text, as etcd's, names no reason: each is logged once in a while."""

    def __init__(self) -> None:
        self._noted: dict[str, float] = {}

    def note(self, reason: str) -> None:
        now = time.monotonic()
        if reason and now - self._noted.get(reason, -_QUIET) >= _QUIET:
            if len(self._noted) >= _MOST:
                self._noted.clear()
            self._noted[reason] = now
            log.warning("a call failed: %s", reason)


_REASONS = _Reasons()
