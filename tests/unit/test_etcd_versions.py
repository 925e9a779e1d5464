"""Cluster and storage versions that an etcd of a given version reports."""

from __future__ import annotations

import pytest

from kine.etcd.etcd_versions import cluster_version, oldest, page, storage_version


@pytest.mark.parametrize(
    ("version", "cluster", "storage"),
    [("3.5.13", "3.5.0", ""), ("3.6.11", "3.6.0", "3.6.0"), ("3.10.0-rc.1", "3.10.0", "3.10.0")],
)
def test_of_a_server(version: str, cluster: str, storage: str) -> None:
    assert (cluster_version(version), storage_version(version)) == (cluster, storage)


def test_page_of_a_server_that_stores_its_version() -> None:
    assert page("3.6.11", "3.6.0", "3.6.0") == (
        b'{"etcdserver":"3.6.11","etcdcluster":"3.6.0","storage":"3.6.0"}'
    )


def test_page_of_a_server_that_does_not() -> None:
    assert page("3.5.13", "3.5.0", "") == b'{"etcdserver":"3.5.13","etcdcluster":"3.5.0"}'


def test_a_cluster_has_what_its_oldest_member_has() -> None:
    assert oldest(["3.10.1", "3.9.4", "3.10.0"]) == "3.9.4"
