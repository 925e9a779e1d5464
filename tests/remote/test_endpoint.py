"""Endpoints of an upstream etcd: which are accepted, and how the others are refused."""

from __future__ import annotations

import pytest

from kine.drivers import connect
from kine.drivers.base import Options
from kine.remote.endpoint import EtcdEndpoint, parse


@pytest.mark.parametrize(
    ("endpoint", "read"),
    [
        ("http://10.0.0.1:2379", [EtcdEndpoint("10.0.0.1", 2379)]),
        ("https://etcd.example/", [EtcdEndpoint("etcd.example", 2379, tls=True)]),
        ("http://[::1]:1", [EtcdEndpoint("::1", 1)]),
        ("unix:///run/etcd.sock", [EtcdEndpoint(path="/run/etcd.sock")]),
        ("http://a:1, https://b:2,http://a:1,", [EtcdEndpoint("a", 1), EtcdEndpoint("b", 2, tls=True)]),
    ],
)
def test_endpoint_is_read(endpoint: str, read: list[EtcdEndpoint]) -> None:
    assert list(parse(endpoint)) == read


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        ("http://a:1,b:2", "needs http://, https:// or unix://"),
        ("http://root:hunter22@a:1", "takes no user and password"),
        ("http://a:1/hunter22", "a host and a port, nothing more"),
        ("http://a:hunter22", "port is not a number from 1 to 65535"),
        ("unix://", "no path"),
    ],
)
def test_endpoint_is_refused_with_the_fix_and_not_repeated(endpoint: str, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(endpoint)

    assert said in str(caught.value)
    assert "hunter22" not in str(caught.value)


def test_unknown_scheme_is_told_of_these_too() -> None:
    with pytest.raises(ValueError, match=r"http://, https://.*unix://"):
        connect("redis://host", Options())
