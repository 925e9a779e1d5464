"""Settings: names, defaults and meanings of every flag, and the error for each bad value."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kine.address import Address
from kine.config import SettingError, Settings, settings
from kine.flag_values import address, address_or_off, format_duration, parse_duration, scheme, size
from kine.memory_limit import memory_limit
from kine.tls import Tls

if TYPE_CHECKING:
    from pathlib import Path


def test_defaults() -> None:
    chosen = settings({}, {})

    assert chosen == Settings()
    assert chosen.listen_address == Address("0.0.0.0", 2379)
    assert chosen.metrics_bind_address == Address("", 8080)
    assert chosen.datastore_connection_max_idle_time == 120.0
    assert chosen.tls() is None
    assert chosen.limits().max_request_bytes == 2 * 1024 * 1024


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("0", 0),
        ("-0", 0),
        ("+0", 0),
        ("0s", 0),
        ("5s", 5),
        ("+5s", 5),
        ("-1s", -1),
        ("1h2m3.5s", 3723.5),
        ("100ms", 0.1),
        (".5s", 0.5),
        ("1.s", 1),
        ("1h1h", 7200),
        ("15us", 15e-6),
        ("15µs", 15e-6),
        ("15μs", 15e-6),
        ("7ns", 7e-9),
        ("0.000000001s", 1e-9),
        ("2540400h10m10s", 2540400 * 3600 + 610),
    ],
)
def test_duration_is_read_as_go_reads_it(written: str, seconds: float) -> None:
    assert parse_duration(written) == pytest.approx(seconds, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(
    "written",
    ["", "s", ".", ".s", "-", "+", "1", "1.5", "1S", "1 s", "5s ", "1d", "--1s", "1s-1s", "1e3s", "٣s"],
)
def test_duration_that_go_refuses_is_refused_with_a_way_to_write_it(written: str) -> None:
    with pytest.raises(ValueError, match="write"):
        parse_duration(written)


def test_duration_beyond_64_bits_of_nanoseconds_is_refused() -> None:
    with pytest.raises(ValueError, match="292 years"):
        parse_duration("2562048h")


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0, "0s"),
        (1, "1s"),
        (90, "1m30s"),
        (120, "2m0s"),
        (3600, "1h0m0s"),
        (3723.5, "1h2m3.5s"),
        (0.1, "100ms"),
        (0.0015, "1.5ms"),
        (2e-6, "2µs"),
        (3e-9, "3ns"),
        (-1.25, "-1.25s"),
    ],
)
def test_duration_is_printed_as_go_prints_it(seconds: float, written: str) -> None:
    assert format_duration(seconds) == written


@given(st.integers(-(10**15), 10**15))
def test_duration_printed_is_read_back(nanoseconds: int) -> None:
    assert parse_duration(format_duration(nanoseconds / 1e9)) == pytest.approx(nanoseconds / 1e9, abs=1e-9)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("0.0.0.0:2379", Address("0.0.0.0", 2379)),
        (":2379", Address("", 2379)),
        ("localhost:0", Address("localhost", 0)),
        ("[::1]:2379", Address("::1", 2379)),
        ("tcp://127.0.0.1:2379", Address("127.0.0.1", 2379)),
        ("http://127.0.0.1:2379", Address("127.0.0.1", 2379)),
        ("unix:///run/kine.sock", Address(path="/run/kine.sock")),
        ("unix://kine.sock", Address(path="kine.sock")),
        ("", Address(path="kine.sock")),
    ],
)
def test_listen_address(written: str, expected: Address) -> None:
    assert address(written) == expected


_NO_ADDRESS = "is not an address; write HOST:PORT, [IPv6]:PORT or unix://PATH"
_NO_PORT = "has no port between 0 and 65535; write it like 127.0.0.1:2379"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("2379", _NO_ADDRESS),
        ("host", _NO_ADDRESS),
        ("::1:2379", _NO_ADDRESS),
        ("a/b:1", _NO_ADDRESS),
        ("tcp://host", _NO_ADDRESS),
        ("host:", _NO_PORT),
        ("host:x", _NO_PORT),
        ("host:-1", _NO_PORT),
        ("host:65536", _NO_PORT),
        ("host:000080", _NO_PORT),
        ("unix://", "has no path; write unix:///run/kine.sock"),
    ],
)
def test_listen_address_that_is_none(written: str, said: str) -> None:
    with pytest.raises(ValueError) as refusal:
        address(written)
    assert str(refusal.value) == f'"{written}" {said}'


@pytest.mark.parametrize("port", [0, 65535])
def test_listen_address_takes_every_port(port: int) -> None:
    assert address(f"host:{port}") == Address("host", port)


@pytest.mark.parametrize("written", ["127.0.0.1:2379", "[::1]:2379", "unix:///run/kine.sock", ":8080"])
def test_address_is_shown_as_it_is_written(written: str) -> None:
    assert str(address(written)) == written


def test_metrics_address_0_is_off() -> None:
    assert address_or_off("0") is None


def test_metrics_address_empty_is_the_default() -> None:
    assert address_or_off("") == Address("", 8080)


def test_metrics_address_is_no_unix_socket() -> None:
    with pytest.raises(ValueError, match="unix socket"):
        address_or_off("unix:///run/metrics.sock")


@pytest.mark.parametrize(
    ("endpoint", "expected"), [("", "sqlite"), ("/data/x.db", ""), ("postgres://u:p@h/d", "postgres")]
)
def test_scheme_of_endpoint(endpoint: str, expected: str) -> None:
    assert scheme(endpoint) == expected


def test_flag_wins_over_variable() -> None:
    chosen = settings({"poll_batch_size": "7"}, {"KINE_POLL_BATCH_SIZE": "9"})

    assert chosen.poll_batch_size == 7


def test_variable_wins_over_default() -> None:
    chosen = settings({}, {"KINE_POLL_BATCH_SIZE": "9", "KINE_DEBUG": "1"})

    assert (chosen.poll_batch_size, chosen.debug) == (9, True)


def test_variable_set_to_nothing_leaves_numbers_and_durations_at_their_default() -> None:
    chosen = settings({}, {"KINE_POLL_BATCH_SIZE": "", "KINE_COMPACT_TIMEOUT": "", "KINE_DEBUG": ""})

    assert chosen == Settings()


def test_variable_set_to_nothing_empties_a_text() -> None:
    chosen = settings({}, {"KINE_LISTEN_ADDRESS": ""})

    assert chosen.listen_address == Address(path="kine.sock")


@pytest.mark.parametrize(
    ("field", "written", "said"),
    [
        ("compact_interval", "5", '--compact-interval: "5" has no unit; write 5s'),
        ("compact_timeout", "0", "--compact-timeout: "),
        ("watch_progress_notify_interval", "-1s", "--watch-progress-notify-interval: "),
        ("compact_batch_size", "99", "--compact-batch-size: 99 is too small; write at least 100"),
        ("compact_interval_jitter", "100", "--compact-interval-jitter: 100 is too large; write at most 99"),
        ("compact_min_retain", "-1", "--compact-min-retain: -1 is too small"),
        ("poll_batch_size", "0", "--poll-batch-size: 0 is too small"),
        ("poll_batch_size", "many", '--poll-batch-size: "many" is not a whole number'),
        ("log_format", "xml", '--log-format: "xml" is not known; write plain or json'),
        ("transport", "quic", '--transport: "quic" is not known; write http2 or grpcio'),
        ("identity_provider", "gcp", '--identity-provider: "gcp" is not known; write nothing or aws'),
        ("emulated_etcd_version", "v3.5", '--emulated-etcd-version: "v3.5" is not a version'),
        ("value_cache_bytes", "512MB", '--value-cache-bytes: "512MB" is not a size'),
        ("max_request_bytes", "0", '--max-request-bytes: "0" is too small'),
        ("max_request_bytes", "2GiB", '--max-request-bytes: "2GiB" is too large'),
        ("debug", "maybe", '--debug: "maybe" is neither true nor false'),
        ("ca_file", "a\0b", "--ca-file: "),
    ],
)
def test_bad_value_names_the_flag_and_the_fix(field: str, written: str, said: str) -> None:
    with pytest.raises(SettingError) as caught:
        settings({field: written}, {})

    assert str(caught.value).startswith(said)


def test_bad_variable_is_named_as_such() -> None:
    with pytest.raises(SettingError, match=r"^KINE_COMPACT_INTERVAL: "):
        settings({}, {"KINE_COMPACT_INTERVAL": "soon"})


def test_bad_value_stays_on_one_line() -> None:
    with pytest.raises(SettingError) as caught:
        settings({"log_format": "json\nlevel=info"}, {})

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"server_cert_file": "c"}, "--server-key-file"),
        ({"server_key_file": "k"}, "--server-cert-file"),
        ({"trusted_ca_file": "ca"}, "--server-cert-file"),
        ({"cert_file": "c"}, "--key-file"),
    ],
)
def test_half_of_a_tls_pair_is_refused(given: dict[str, str], named: str) -> None:
    with pytest.raises(SettingError, match=named):
        settings(given, {})


def test_empty_tls_flags_mean_no_tls() -> None:
    chosen = settings({"ca_file": "", "cert_file": "", "key_file": ""}, {})

    assert chosen == Settings()


def test_metrics_share_the_servers_certificate_but_ask_for_none() -> None:
    chosen = Settings(server_cert_file="c", server_key_file="k", trusted_ca_file="ca")

    assert chosen.tls() == Tls("c", "k", "ca")
    assert chosen.metrics_tls() == Tls("c", "k")


def test_metrics_ask_for_a_certificate_where_profiles_need_one() -> None:
    chosen = Settings(
        server_cert_file="c", server_key_file="k", trusted_ca_file="ca", metrics_enable_profiling=True
    )

    assert chosen.metrics_tls() == Tls("c", "k", "ca", certificate_optional=True)


def test_metrics_ignore_tls_config() -> None:
    chosen = Settings(server_cert_file="c", server_key_file="k", metrics_ignore_tls_config=True)

    assert chosen.metrics_tls() is None


@pytest.mark.parametrize(("given", "kept"), [("5", 5), ("0", 20), ("-1", 0)])
def test_idle_connections_as_go_kine_counts_them(given: str, kept: int) -> None:
    chosen = settings({"datastore_max_idle_connections": given}, {})

    assert chosen.driver_options().max_idle_connections == kept


def test_negative_means_no_limit_or_off() -> None:
    chosen = settings(
        {
            "datastore_max_open_connections": "-1",
            "datastore_connection_max_lifetime": "-1s",
            "datastore_connection_max_idle_time": "-1s",
            "slow_sql_threshold": "-1s",
            "compact_interval": "-1s",
        },
        {},
    )
    options = chosen.driver_options()

    assert options.max_open_connections == 0
    assert options.connection_max_lifetime == 0
    assert options.connection_max_idle_time == 0
    assert options.slow_sql_threshold == 0
    assert chosen.compact_interval == 0


def test_endpoint_is_not_shown() -> None:
    chosen = settings({"endpoint": "postgres://user:hunter22@host/db"}, {})

    assert "hunter22" not in repr(chosen)


@pytest.mark.parametrize(
    ("written", "expected"),
    [("0", 0), ("1572864", 1572864), ("4MiB", 4 << 20), ("2Gi", 2 << 30), ("1KiB", 1024)],
)
def test_size(written: str, expected: int) -> None:
    assert size()(written) == expected


def test_value_cache_is_a_quarter_of_memory_at_most_4_gib() -> None:
    assert settings({}, {}).value_cache_bytes == min(memory_limit() // 4, 4 << 30)


def test_memory_is_bounded_by_the_control_group(tmp_path: Path) -> None:
    group = tmp_path / "sys/fs/cgroup/kubepods/pod1"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group.parent / "memory.max").write_text("268435456\n")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/kubepods/pod1\n")

    assert memory_limit(tmp_path) == 268435456


def test_memory_is_bounded_by_a_version_1_control_group(tmp_path: Path) -> None:
    group = tmp_path / "sys/fs/cgroup/memory/docker/c1"
    group.mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text("134217728\n")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("3:cpu,cpuacct:/docker/c1\n2:memory:/docker/c1\n")

    assert memory_limit(tmp_path) == 134217728


def test_memory_without_control_groups_is_the_machines(tmp_path: Path) -> None:
    assert memory_limit(tmp_path) > 64 << 20
