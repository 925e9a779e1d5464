"""gRPC health checks and reflection, and how calls to unknown services and methods end."""

from __future__ import annotations

from queue import SimpleQueue
from typing import TYPE_CHECKING

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from kine.proto import rpc_pb2 as pb
from tests.client import CALL_TIMEOUT as PATIENCE

if TYPE_CHECKING:
    from tests.client import Client

SERVING = health_pb2.HealthCheckResponse.SERVING


# ---- health v1


def test_health_of_the_server_is_serving(client: Client) -> None:
    health = health_pb2_grpc.HealthStub(client.channel)

    assert health.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE).status == SERVING


def test_health_of_an_unknown_service_is_not_found(client: Client) -> None:
    health = health_pb2_grpc.HealthStub(client.channel)

    with pytest.raises(grpc.RpcError) as refusal:
        health.Check(health_pb2.HealthCheckRequest(service="no.such.Service"), timeout=PATIENCE)

    assert refusal.value.code() == grpc.StatusCode.NOT_FOUND


def test_health_watch_tells_the_present_state_at_once(client: Client) -> None:
    watch = health_pb2_grpc.HealthStub(client.channel).Watch(
        health_pb2.HealthCheckRequest(), timeout=PATIENCE
    )

    assert next(iter(watch)).status == SERVING
    watch.cancel()


# ---- reflection


def reflect(client: Client, **query: str) -> reflection_pb2.ServerReflectionResponse:
    stub = reflection_pb2_grpc.ServerReflectionStub(client.channel)
    requests = iter([reflection_pb2.ServerReflectionRequest(**query)])
    return next(iter(stub.ServerReflectionInfo(requests, timeout=PATIENCE)))


def test_reflection_lists_the_services(client: Client, needs) -> None:
    needs("reflection")

    answer = reflect(client, list_services="")

    services = {service.name for service in answer.list_services_response.service}
    assert services >= {
        "etcdserverpb.KV",
        "etcdserverpb.Watch",
        "etcdserverpb.Lease",
        "etcdserverpb.Cluster",
        "etcdserverpb.Maintenance",
        "grpc.health.v1.Health",
    }


def test_reflection_describes_the_api(client: Client, needs) -> None:
    needs("reflection")

    answer = reflect(client, file_containing_symbol="etcdserverpb.KV")

    files = [
        descriptor_pb2.FileDescriptorProto.FromString(raw)
        for raw in answer.file_descriptor_response.file_descriptor_proto
    ]
    methods = {
        method.name
        for file in files
        for service in file.service
        if service.name == "KV"
        for method in service.method
    }
    assert methods >= {"Range", "Put", "DeleteRange", "Txn", "Compact"}


def test_reflection_of_an_unknown_symbol_is_not_found(client: Client, needs) -> None:
    needs("reflection")

    answer = reflect(client, file_containing_symbol="no.such.Symbol")

    assert answer.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


# ---- unknown and malformed calls


@pytest.mark.parametrize("path", ["/etcdserverpb.KV/NoSuchMethod", "/no.such.Service/Range"])
def test_unknown_method_is_unimplemented(client: Client, path: str) -> None:
    with pytest.raises(grpc.RpcError) as refusal:
        client.channel.unary_unary(path)(b"", timeout=PATIENCE)

    assert refusal.value.code() == grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("path", ["KV/Range", "KV/Txn", "Lease/LeaseGrant", "Maintenance/Status"])
def test_request_that_is_no_message_is_refused(client: Client, path: str) -> None:
    with pytest.raises(grpc.RpcError) as refusal:
        client.channel.unary_unary(f"/etcdserverpb.{path}")(b"\xff" * 20, timeout=PATIENCE)

    assert refusal.value.code() == grpc.StatusCode.INTERNAL


def test_watch_request_that_is_no_message_ends_the_stream_only(client: Client, prefix: bytes) -> None:
    call = client.channel.stream_stream("/etcdserverpb.Watch/Watch")(iter([b"\xff" * 20]), timeout=PATIENCE)

    with pytest.raises(grpc.RpcError) as refusal:
        next(call)

    assert refusal.value.code() == grpc.StatusCode.INTERNAL
    assert client.range(prefix).count == 0


def test_unknown_fields_are_ignored(client: Client, prefix: bytes) -> None:
    request = pb.RangeRequest(key=prefix).SerializeToString() + b"\xfa\x7f\x03new"  # field 2047

    answer = client.channel.unary_unary("/etcdserverpb.KV/Range")(request, timeout=PATIENCE)

    assert pb.RangeResponse.FromString(answer).count == 0


def test_passed_deadline_ends_the_call_and_not_the_server(client: Client, prefix: bytes) -> None:
    watch = client.channel.stream_stream(
        "/etcdserverpb.Watch/Watch",
        request_serializer=pb.WatchRequest.SerializeToString,
        response_deserializer=pb.WatchResponse.FromString,
    )

    requests: SimpleQueue[pb.WatchRequest | None] = SimpleQueue()

    with pytest.raises(grpc.RpcError):  # the code depends on which end's deadline fires first
        next(watch(iter(requests.get, None), timeout=0.2))  # a stream without watches gets no message
    requests.put(None)

    assert client.range(prefix).count == 0


def test_gzip_requests_are_understood(client: Client, prefix: bytes) -> None:
    put = client.channel.unary_unary(
        "/etcdserverpb.KV/Put", pb.PutRequest.SerializeToString, pb.PutResponse.FromString
    )

    put(
        pb.PutRequest(key=prefix, value=b"x" * 10_000),
        timeout=PATIENCE,
        compression=grpc.Compression.Gzip,
    )

    assert client.get(prefix).value == b"x" * 10_000


def test_metadata_clients_send_is_accepted(client: Client, prefix: bytes) -> None:
    metadata = (("hasleader", "true"), ("client-api-version", "3.5.0"))
    get = client.channel.unary_unary(
        "/etcdserverpb.KV/Range", pb.RangeRequest.SerializeToString, pb.RangeResponse.FromString
    )

    answer = get(pb.RangeRequest(key=prefix), timeout=PATIENCE, metadata=metadata)

    assert answer.count == 0
