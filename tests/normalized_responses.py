"""Responses in comparable form: nested dictionaries without what differs by design.

Left out are cluster and member ids, the raft term, the seconds a lease has left, and the revisions in the
headers inside a Txn's response. Between servers that number their writes differently, so is the order of keys
that one request wrote, when sorted by revision.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any

from kine.proto import kv_pb2 as kv
from kine.proto import rpc_pb2 as pb
from tests.etcd_model import Refusal

Revision = Callable[[int], int]  # how a revision is shown


def outline_kv(item: kv.KeyValue, show: Revision) -> dict[str, Any]:
    return {
        "key": item.key,
        "value": item.value,
        "version": item.version,
        "create": show(item.create_revision) if item.create_revision else 0,
        "mod": show(item.mod_revision),
        "lease": item.lease,
    }


def outline_events(events: list[kv.Event], show: Revision) -> list[dict[str, Any]]:
    return [
        {
            "type": event.type,
            "kv": outline_kv(event.kv, show),
            "prev": outline_kv(event.prev_kv, show) if event.HasField("prev_kv") else None,
        }
        for event in events
    ]


def outline_created(answer: pb.WatchResponse, show: Revision) -> dict[str, Any]:
    return {
        "watch_id": answer.watch_id,
        "canceled": answer.canceled,
        "reason": answer.cancel_reason,
        "revision": show(answer.header.revision),
    }


def outline(answer: Any, request: Any, show: Revision, exact: bool) -> Any:
    """The response to `request` as nested dictionaries, its revisions as `show` returns them."""
    if isinstance(answer, Refusal):
        return {"refused": answer.code, "text": answer.text}
    told = _parts(answer, request, show, exact)
    told["revision"] = show(answer.header.revision)
    return told


def _parts(answer: Any, request: Any, show: Revision, exact: bool) -> dict[str, Any]:
    match answer:
        case pb.RangeResponse():
            kvs = [outline_kv(item, show) for item in answer.kvs]
            return {
                "kvs": kvs if exact else _without_order_in_ties(kvs, request, answer.more),
                "more": answer.more,
                "count": answer.count,
            }
        case pb.PutResponse():
            return {"prev": outline_kv(answer.prev_kv, show) if answer.HasField("prev_kv") else None}
        case pb.DeleteRangeResponse():
            return {
                "deleted": answer.deleted,
                "prev": [outline_kv(item, show) for item in answer.prev_kvs],
            }
        case pb.TxnResponse():
            ops = request.success if answer.succeeded else request.failure
            responses = [
                _parts(
                    getattr(response, response.WhichOneof("response")),
                    getattr(op, op.WhichOneof("request")),
                    show,
                    exact,
                )
                for response, op in zip(answer.responses, ops, strict=True)
            ]
            return {"succeeded": answer.succeeded, "responses": responses}
        case pb.LeaseTimeToLiveResponse():
            return {
                "lease": answer.ID,
                "lives": answer.TTL > 0,
                "granted": answer.grantedTTL,
                "keys": sorted(answer.keys),
            }
        case pb.LeaseGrantResponse():
            return {"lease": answer.ID, "ttl": answer.TTL}
        case _:
            return {}


def _without_order_in_ties(kvs: list[dict[str, Any]], request: pb.RangeRequest, more: bool) -> list[Any]:
    """Sorted by revision, keys of one tick are a set; of one cut by the limit, only their number is kept."""
    by = {pb.RangeRequest.MOD: "mod", pb.RangeRequest.CREATE: "create"}.get(request.sort_target)
    if by is None:
        return kvs
    ties = [
        sorted(group, key=lambda item: item["key"]) for _, group in groupby(kvs, key=lambda item: item[by])
    ]
    if more and ties:
        ties[-1] = [{by: ties[-1][0][by], "keys": len(ties[-1])}]
    return ties
