"""Hypothesis strategies for random requests over a few keys, leases and revisions.

Requests are drawn as templates, so that one draw can be sent to several servers: keys are relative to a
prefix, lease ids to a base, and a revision field counts back from the newest write: 0 leaves it out, 1 is the
newest, 2 the one before, and so on; `AHEAD` lies in the future, and `OWN` in a compare is the revision at
which its key was last written. `tests/revision_mapping.py` fills them in.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from kine.proto import rpc_pb2 as pb

AHEAD = 99
OWN = 98
UNKNOWN_LEASE = 9
LEASE_TTL = 1000  # seconds: long enough that none expires during a run

KEYS = [b"a", b"a/", b"a/b", b"ab", b"b", b"c"]
STARTS = [*KEYS, b"", b"a\0", b"bb"]
ENDS = [b"b", b"ab", b"c", b"z", b"\0"]  # `\0` is sent as it is: no bound
VALUES = [b"", b"1", b"2", b"22", b"x" * 300]


def mostly(usual: st.SearchStrategy[Any], rare: st.SearchStrategy[Any], one_in: int = 8) -> Any:
    """Draws `rare` once in so many draws."""
    return st.integers(0, one_in - 1).flatmap(lambda drawn: usual if drawn else rare)


keys = st.sampled_from(KEYS)
values = st.sampled_from(VALUES)
flags = st.sampled_from([False, False, True])
leases = mostly(st.just(0), st.sampled_from([1, 1, 1, 2, 2, 2, 3, UNKNOWN_LEASE]), 4)
# The present and the past, and sometimes the future. What is far enough back has been compacted.
revisions = mostly(st.sampled_from([0, 0, 1, 2, 3, 4, 6, 8]), st.sampled_from([12, 16, AHEAD]))
past = st.sampled_from([1, 2, 3, 5, 8, 12])
operands = st.sampled_from([0, OWN, OWN, OWN, 1, 2, 3, 5, AHEAD])  # of a compare by revision
spans = st.one_of(
    st.tuples(keys, st.just(b"")),
    st.tuples(st.sampled_from(STARTS), st.sampled_from(ENDS)),
    st.sampled_from([(b"", b"z"), (b"", b"z"), (b"", b"\0"), (b"a", b"b"), (b"a/", b"a0")]),
    st.tuples(st.sampled_from(STARTS), st.sampled_from(ENDS)),
)


@st.composite
def ranges(draw: st.DrawFn) -> pb.RangeRequest:
    key, end = draw(spans)
    request = pb.RangeRequest(key=key, range_end=end, revision=draw(revisions))
    kind = draw(st.sampled_from(["plain", "limit", "keys", "count", "sort", "filter", "all"]))
    if kind in ("limit", "all") or (kind == "sort" and draw(flags)):
        request.limit = draw(st.sampled_from([1, 2, 3, 50]))
    if kind in ("sort", "all"):
        request.sort_order = draw(st.sampled_from([0, 1, 2]))
        request.sort_target = draw(st.sampled_from([0, 1, 2, 3, 4]))
    if kind in ("filter", "all"):
        bound = draw(
            st.sampled_from(
                ["min_mod_revision", "max_mod_revision", "min_create_revision", "max_create_revision"]
            )
        )
        setattr(request, bound, draw(past))
    request.keys_only = kind == "keys"
    request.count_only = kind == "count"
    request.serializable = draw(flags)
    return request


plain_puts = st.builds(pb.PutRequest, key=keys, value=values, lease=leases, prev_kv=flags)


@st.composite
def puts_that_ignore(draw: st.DrawFn) -> pb.PutRequest:
    """Puts that keep the value or the lease; some against the rules."""
    request = pb.PutRequest(key=draw(keys), prev_kv=draw(flags))
    request.ignore_value, request.ignore_lease = draw(
        st.sampled_from([(True, False), (False, True), (True, True)])
    )
    if not request.ignore_value or draw(mostly(st.just(False), st.just(True))):
        request.value = draw(values)
    if not request.ignore_lease or draw(mostly(st.just(False), st.just(True))):
        request.lease = draw(leases)
    return request


puts = mostly(plain_puts, puts_that_ignore(), 5)


@st.composite
def deletes(draw: st.DrawFn) -> pb.DeleteRangeRequest:
    key, end = draw(mostly(st.tuples(keys, st.just(b"")), spans, 6))
    return pb.DeleteRangeRequest(key=key, range_end=end, prev_kv=draw(flags))


@st.composite
def compares(draw: st.DrawFn) -> pb.Compare:
    key, end = draw(st.one_of(st.tuples(keys, st.just(b"")), spans))
    compare = pb.Compare(key=key, range_end=end, result=draw(st.sampled_from([0, 1, 2, 3])))
    target = draw(st.sampled_from(["version", "create_revision", "mod_revision", "value", "lease"]))
    if target == "version":
        compare.target, compare.version = pb.Compare.VERSION, draw(st.sampled_from([0, 0, 1, 2]))
    elif target == "create_revision":
        compare.target, compare.create_revision = pb.Compare.CREATE, draw(operands)
    elif target == "mod_revision":
        compare.target, compare.mod_revision = pb.Compare.MOD, draw(operands)
    elif target == "value":
        compare.target, compare.value = pb.Compare.VALUE, draw(values)
    else:
        compare.target, compare.lease = pb.Compare.LEASE, draw(st.sampled_from([0, 1, 2]))
    return compare


def operations(children: st.SearchStrategy[pb.TxnRequest] | None = None) -> st.SearchStrategy[pb.RequestOp]:
    kinds: list[st.SearchStrategy[Any]] = [
        st.builds(pb.RequestOp, request_put=puts),
        st.builds(pb.RequestOp, request_put=puts),
        st.builds(pb.RequestOp, request_range=ranges()),
        # etcd takes `\0` literally when it looks for overlaps of puts and deletes.
        st.builds(pb.RequestOp, request_delete_range=deletes().filter(lambda d: d.range_end != b"\0")),
    ]
    if children is not None:
        kinds.append(st.builds(pb.RequestOp, request_txn=children))
    return st.one_of(kinds)


def transactions(nesting: int = 2) -> st.SearchStrategy[pb.TxnRequest]:
    ops = operations(transactions(nesting - 1) if nesting else None)
    return st.builds(
        pb.TxnRequest,
        compare=st.lists(compares(), max_size=2),
        success=st.lists(ops, max_size=4),
        failure=st.lists(ops, max_size=3),
    )


@st.composite
def updates(draw: st.DrawFn) -> pb.TxnRequest:
    """What Kubernetes sends: create, update or delete at a revision, with the current kv on conflict."""
    key = draw(keys)
    compare = pb.Compare(
        key=key, target=pb.Compare.MOD, mod_revision=draw(st.sampled_from([0, OWN, OWN, OWN, 1]))
    )
    put = pb.RequestOp(request_put=pb.PutRequest(key=key, value=draw(values), lease=draw(leases)))
    delete = pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key, prev_kv=draw(flags)))
    get = pb.RequestOp(request_range=pb.RangeRequest(key=key))
    write = draw(st.sampled_from([put, put, delete]))
    return pb.TxnRequest(compare=[compare], success=[write], failure=draw(st.sampled_from([[], [get]])))


grants = st.builds(
    pb.LeaseGrantRequest, ID=st.sampled_from([1, 2, 3]), TTL=st.sampled_from([LEASE_TTL, 2 * LEASE_TTL])
)
revokes = st.builds(pb.LeaseRevokeRequest, ID=st.sampled_from([1, 2, 3]))
times_to_live = st.builds(
    pb.LeaseTimeToLiveRequest, ID=st.sampled_from([1, 2, 3, UNKNOWN_LEASE]), keys=st.booleans()
)
compactions = st.builds(
    pb.CompactionRequest, revision=mostly(st.sampled_from([3, 6, 8, 12, 12]), st.sampled_from([1, AHEAD]), 5)
)
watches = st.builds(
    lambda span, start, prev_kv, fragment, filters: pb.WatchCreateRequest(
        key=span[0],
        range_end=span[1],
        start_revision=start,
        prev_kv=prev_kv,
        fragment=fragment,
        filters=filters,
    ),
    spans,
    st.sampled_from([0, 0, 0, 1, 2, 3, 5, 8, 12]),
    st.booleans(),
    flags,
    st.sampled_from([[], [], [], [0], [1]]),
)
writes = st.one_of(puts, puts, puts, updates(), updates(), deletes(), transactions(), transactions(0))
lease_calls = st.one_of(grants, grants, times_to_live, revokes)
requests = st.one_of(
    puts, updates(), updates(), deletes(), ranges(), ranges(), transactions(), transactions(), lease_calls
)
