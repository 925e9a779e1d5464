"""The etcdserverpb.Auth service: authentication is off, and there are neither users nor roles.

Clients configured with a user first request a token, and go on without one when the error says that
authentication is not enabled. Every method that needs no stored user or role responds as etcd does then.
"""

from __future__ import annotations

from kine.etcd import errors
from kine.etcd.response_encoding import HeaderCache
from kine.proto import rpc_pb2 as rpc
from kine.store.store import Store
from kine.transport.base import Call, RpcError, UnaryHandler

_REVISION = 1  # etcd's, until the first user or role is added
_INSTEAD = "use mTLS (--trusted-ca-file) to say who may connect"


class AuthService:
    def __init__(self, store: Store, headers: HeaderCache) -> None:
        self._store = store
        self._headers = headers

    def handlers(self) -> dict[str, UnaryHandler]:
        """The handlers of all methods, by name."""
        return {
            "Authenticate": _refusing(errors.auth_not_enabled()),
            "AuthStatus": self.status,
            "AuthEnable": _refusing(errors.no_root_user()),
            "AuthDisable": self.nothing,
            "UserAdd": self.user_add,
            "UserGet": _refusing(errors.user_not_found()),
            "UserList": self.nothing,
            "UserDelete": _refusing(errors.user_not_found()),
            "UserChangePassword": _refusing(errors.user_not_found()),
            "UserGrantRole": _refusing(errors.user_not_found()),
            "UserRevokeRole": _refusing(errors.user_not_found()),
            "RoleAdd": self.role_add,
            "RoleGet": _refusing(errors.role_not_found()),
            "RoleList": self.nothing,
            "RoleDelete": _refusing(errors.role_not_found()),
            "RoleGrantPermission": self.role_grant_permission,
            "RoleRevokePermission": _refusing(errors.role_not_found()),
        }

    def nothing(self, request: bytes, call: Call) -> bytes:
        """Responds with a header only: there is nothing to do, or nothing to list."""
        return self._headers.at(self._store.index.revision)

    def status(self, request: bytes, call: Call) -> bytes:
        answer = rpc.AuthStatusResponse(authRevision=_REVISION)
        return self.nothing(request, call) + answer.SerializeToString()

    def user_add(self, request: bytes, call: Call) -> bytes:
        if not rpc.AuthUserAddRequest.FromString(request).name:
            raise errors.empty_user()
        raise errors.unsupported("UserAdd", _INSTEAD)

    def role_add(self, request: bytes, call: Call) -> bytes:
        if not rpc.AuthRoleAddRequest.FromString(request).name:
            raise errors.empty_role()
        raise errors.unsupported("RoleAdd", _INSTEAD)

    def role_grant_permission(self, request: bytes, call: Call) -> bytes:
        if not rpc.AuthRoleGrantPermissionRequest.FromString(request).HasField("perm"):
            raise errors.permission_not_given()
        raise errors.role_not_found()


def _refusing(error: RpcError) -> UnaryHandler:
    def refuse(request: bytes, call: Call) -> bytes:
        raise RpcError(error.code, error.message)

    return refuse
