"""The hand-encoded requests equal those of the generated protobuf classes, byte for byte."""

from bench import etcd_requests
from kine.proto import rpc_pb2

KEY, VALUE = b"/registry/pods/default/web-1", b"v" * 200


def mod_is(revision):
    return rpc_pb2.Compare(target=rpc_pb2.Compare.MOD, key=KEY, mod_revision=revision)


def put_op(lease=0):
    return rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=KEY, value=VALUE, lease=lease))


def get_op():
    return rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=KEY))


def test_create():
    for lease in (0, 7, 1 << 62):
        expected = rpc_pb2.TxnRequest(compare=[mod_is(0)], success=[put_op(lease)])

        assert etcd_requests.create(KEY, VALUE, lease) == expected.SerializeToString()


def test_update():
    for revision in (1, 127, 128, 16_383, 16_384, 1 << 40):
        expected = rpc_pb2.TxnRequest(compare=[mod_is(revision)], success=[put_op()], failure=[get_op()])

        assert etcd_requests.update(KEY, VALUE, revision) == expected.SerializeToString()


def test_delete():
    delete_op = rpc_pb2.RequestOp(request_delete_range=rpc_pb2.DeleteRangeRequest(key=KEY))
    expected = rpc_pb2.TxnRequest(compare=[mod_is(300)], success=[delete_op], failure=[get_op()])

    assert etcd_requests.delete(KEY, 300) == expected.SerializeToString()


def test_put():
    expected = rpc_pb2.PutRequest(key=KEY, value=VALUE, lease=5)

    assert etcd_requests.put(KEY, VALUE, 5) == expected.SerializeToString()


def test_get():
    assert etcd_requests.get(KEY) == rpc_pb2.RangeRequest(key=KEY).SerializeToString()
    assert etcd_requests.get(KEY, 300) == rpc_pb2.RangeRequest(key=KEY, revision=300).SerializeToString()


def test_range():
    expected = rpc_pb2.RangeRequest(key=b"/a/", range_end=b"/a0", limit=500, revision=9, count_only=True)

    found = etcd_requests.range_of(
        b"/a/", etcd_requests.prefix_end(b"/a/"), limit=500, revision=9, count_only=True
    )

    assert found == expected.SerializeToString()


def test_watch():
    create = rpc_pb2.WatchCreateRequest(
        key=b"/a/", range_end=b"/a0", start_revision=12, progress_notify=True, prev_kv=True
    )

    found = etcd_requests.watch(b"/a/", b"/a0", start=12)

    assert found == rpc_pb2.WatchRequest(create_request=create).SerializeToString()


def test_watch_cancel():
    for watch in (0, 3, 700):
        cancel = rpc_pb2.WatchCancelRequest(watch_id=watch)

        assert (
            etcd_requests.cancel_watch(watch)
            == rpc_pb2.WatchRequest(cancel_request=cancel).SerializeToString()
        )


def test_lease_grant():
    assert etcd_requests.lease_grant(3600) == rpc_pb2.LeaseGrantRequest(TTL=3600).SerializeToString()
