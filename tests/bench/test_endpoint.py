"""Endpoint parsing: the servers that the driver accepts as targets."""

import pytest

from bench.endpoint import EndpointError, parse


def test_addresses_of_this_machine_pass():
    assert parse("etcd=http://127.0.0.1:2379").authority == "127.0.0.1:2379"
    assert parse("kine=https://localhost:2379").secure
    assert parse("ours=unix:///run/kine.sock").path == "/run/kine.sock"


def test_another_machine_s_address_is_refused_unless_allowed():
    with pytest.raises(EndpointError, match="--allow-remote"):
        parse("etcd=http://192.0.2.1:2379")

    assert parse("etcd=http://192.0.2.1:2379", allow_remote=True).host == "192.0.2.1"


@pytest.mark.parametrize(
    "text",
    ["http://127.0.0.1:2379", "etcd=", "etcd=ftp://127.0.0.1:1", "etcd=http://127.0.0.1", "x=http://:1"],
)
def test_what_is_no_endpoint_is_refused(text):
    with pytest.raises(EndpointError):
        parse(text)
