"""The etcdserverpb.Cluster service: to its clients, each instance is a cluster of one member."""

from __future__ import annotations

from kine.etcd.response_encoding import HeaderCache
from kine.proto import rpc_pb2 as rpc
from kine.store.store import Store
from kine.transport.base import Call


class ClusterService:
    def __init__(self, store: Store, headers: HeaderCache, scheme: str, name: str, url: str = "") -> None:
        self._store = store
        self._headers = headers
        self._scheme = scheme
        self._name = name
        self._url = url

    async def member_list(self, request: bytes, call: Call) -> bytes:
        """Returns one member, with the address that the client itself has used, as that is reachable.

        On a unix socket, clients send only the last part of its path; the configured address is used there.
        """
        if rpc.MemberListRequest.FromString(request).linearizable:
            await self._store.refresh()
        authority = call.metadata.get(":authority", "") or "localhost:2379"
        url = self._url or f"{self._scheme}://{authority}"
        member = rpc.Member(ID=self._headers.member_id, name=self._name, peerURLs=[url], clientURLs=[url])
        answer = rpc.MemberListResponse(members=[member])
        return self._headers.at(self._store.index.revision) + answer.SerializeToString()
