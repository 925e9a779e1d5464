"""Parsers of values on the command line, in environment variables and in endpoint parameters.

Each function parses one kind of value, and raises ValueError with the reason and the fix in one line.
"""

from __future__ import annotations

import ipaddress
import json
import re
import resource
from typing import TYPE_CHECKING

from kine.address import Address
from kine.memory_limit import memory_limit

if TYPE_CHECKING:
    from collections.abc import Callable

# Go's time.ParseDuration; both Unicode micro signs.
NANOSECONDS = {
    "ns": 1,
    "us": 1_000,
    "\u00b5s": 1_000,
    "\u03bcs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
MAX_NANOSECONDS = 2**63 - 1  # Go's time.Duration: 292 years
DURATION_PART = re.compile(r"([0-9]*)(?:\.([0-9]*))?([a-z\u00b5\u03bc]+)")
BARE_NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]+)?")

BYTES = {"": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
MAX_VALUE_CACHE = 4 * 2**30
RESERVED_FILES = 256  # file descriptors for database connections, files and scrapers
MIN_QUEUE, MAX_QUEUE = 32 * 2**20, 2**30

BAD_PORT = "the endpoint's port is not a number from 1 to 65535"
_BAD_HOST = (
    "the endpoint's host is neither a name nor an address; an IPv6 address stands in brackets, as [::1]"
)
_NO_HOST = re.compile(r"[\[\]\s<>\"|{}^`\\]")

TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})  # as Go's strconv.ParseBool


def quoted(value: str) -> str:
    """The value for an error message: escaped to one line, and at most 80 characters."""
    return json.dumps(value if len(value) <= 80 else value[:77] + "...", ensure_ascii=False)


def parse_duration(value: str) -> float:
    """A Go duration in seconds: `1h2m3.5s`, `100ms`, `-1s`, `0` (https://pkg.go.dev/time#ParseDuration)."""
    sign = -1 if value.startswith("-") else 1
    rest = value[1:] if value[:1] in ("-", "+") else value
    if rest == "0":
        return 0.0
    if BARE_NUMBER.fullmatch(value):
        raise ValueError(f"{quoted(value)} has no unit; write {value}s for seconds, or 1m30s, 100ms")
    total, position = 0, 0
    while part := DURATION_PART.match(rest, position):
        whole, fraction, unit = part[1], part[2] or "", part[3]
        if not (whole or fraction) or unit not in NANOSECONDS:
            break
        scale = NANOSECONDS[unit]
        total += int(whole or "0") * scale + int(fraction or "0") * scale // 10 ** len(fraction)
        position = part.end()
    if not rest or position != len(rest):
        raise ValueError(f"{quoted(value)} is not a duration; write it like 1m30s, 5s, 100ms or 0")
    if total > MAX_NANOSECONDS:
        raise ValueError(f"{quoted(value)} is more than 292 years; write a shorter duration")
    return sign * total / 1e9


def format_duration(seconds: float) -> str:
    """A duration in Go's format: `1m30s`, `1.5s`, `100ms`, `2\u00b5s`, `0s`."""
    nanoseconds = round(abs(seconds) * 1e9)
    sign = "-" if seconds < 0 else ""
    if nanoseconds == 0:
        return "0s"
    for unit in ("ns", "\u00b5s", "ms"):
        if nanoseconds < NANOSECONDS[unit] * 1000:
            return f"{sign}{_decimal(nanoseconds, NANOSECONDS[unit])}{unit}"
    minutes, rest = divmod(nanoseconds, NANOSECONDS["m"])
    hours, minutes = divmod(minutes, 60)
    clock = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{sign}{clock}{_decimal(rest, NANOSECONDS['s'])}s"


def _decimal(nanoseconds: int, unit: int) -> str:
    whole, rest = divmod(nanoseconds, unit)
    fraction = f"{rest:0{len(str(unit)) - 1}d}".rstrip("0") if rest else ""
    return f"{whole}.{fraction}" if fraction else str(whole)


def address(value: str) -> Address:
    """`HOST:PORT`, `:PORT`, `[IPv6]:PORT` or `unix://PATH`; empty is `unix://kine.sock`, as in Go kine.

    A scheme other than unix is ignored: `http://127.0.0.1:2379` and `tcp://…` are TCP addresses.
    """
    scheme, separator, rest = value.partition("://")
    if not value:
        return Address(path="kine.sock")
    if separator and scheme == "unix":
        if not rest:
            raise ValueError(f"{quoted(value)} has no path; write unix:///run/kine.sock")
        return Address(path=rest)
    host, colon, port = (rest if separator else value).rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or (":" in host and not bracketed) or "/" in host:
        raise ValueError(f"{quoted(value)} is not an address; write HOST:PORT, [IPv6]:PORT or unix://PATH")
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError(f"{quoted(value)} has no port between 0 and 65535; write it like 127.0.0.1:2379")
    return Address(host[1:-1] if bracketed else host, int(port))


def address_or_off(value: str) -> Address | None:
    """A TCP address, None for `0`; empty is `:8080`, as in Go kine."""
    if value == "0":
        return None
    found = address(value or ":8080")
    if found.path:
        raise ValueError(f"{quoted(value)} is a unix socket; write HOST:PORT, :PORT, or 0 for off")
    return found


def host_and_port(written: str, default: int) -> tuple[str, int]:
    """Host and port of an endpoint: `host`, `host:port`, `[::1]:port`, `[::1]` or `::1`; each may be missing.

    Raises ValueError, whose text does not repeat the input.
    """
    if written.startswith("["):
        host, closed, rest = written[1:].partition("]")
        port = rest.removeprefix(":")
        if not closed or (rest and rest == port) or not _is_ipv6(host):
            raise ValueError(_BAD_HOST)
    elif written.count(":") > 1:
        host, port = written, ""
        if not _is_ipv6(host):
            raise ValueError(_BAD_HOST)
    else:
        host, _, port = written.partition(":")
        if _NO_HOST.search(host):
            raise ValueError(_BAD_HOST)
    if port and not (port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError(BAD_PORT)
    return host, int(port) if port else default


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


def scheme(endpoint: str) -> str:
    """The scheme of an endpoint, or "". It may be shown, unlike the endpoint itself, which may be secret."""
    found, separator, _ = (endpoint or "sqlite://").partition("://")
    return found if separator else ""


def text(value: str) -> str:
    return value


def file_path(value: str) -> str:
    if "\0" in value:
        raise ValueError("a file name cannot hold a NUL byte; write the path of a file")
    return value


def switch(value: str) -> bool:
    if value in TRUE:
        return True
    if value in FALSE:
        return False
    raise ValueError(f"{quoted(value)} is neither true nor false; write true or false")


def choice(*options: str) -> Callable[[str], str]:
    named = " or ".join(option or "nothing" for option in options)

    def parse(value: str) -> str:
        if value not in options:
            raise ValueError(f"{quoted(value)} is not known; write {named}")
        return value

    return parse


def etcd_version(value: str) -> str:
    if not re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?", value):
        raise ValueError(f"{quoted(value)} is not a version; write it like 3.6.11")
    return value


def integer(value: str) -> int:
    if not re.fullmatch(r"[-+]?[0-9]{1,18}", value):
        raise ValueError(f"{quoted(value)} is not a whole number; write it like 1000")
    return int(value)


def count(at_least: int | None = None, at_most: int | None = None) -> Callable[[str], int]:
    def parse(value: str) -> int:
        number = integer(value)
        if at_least is not None and number < at_least:
            raise ValueError(f"{number} is too small; write at least {at_least}")
        if at_most is not None and number > at_most:
            raise ValueError(f"{number} is too large; write at most {at_most}")
        return number

    return parse


def limit(value: str) -> int:
    """A number where 0 or less means no limit, and is returned as 0."""
    return max(0, integer(value))


def idle_limit(default: int) -> Callable[[str], int]:
    """A number where 0 means the default, as in database/sql, and less than 0 means none, returned as 0."""

    def parse(value: str) -> int:
        number = integer(value)
        return max(0, number) if number else default

    return parse


def duration(value: str) -> float:
    """A duration where 0 or less means off, and is returned as 0."""
    return max(0.0, parse_duration(value))


def positive_duration(value: str) -> float:
    seconds = parse_duration(value)
    if seconds <= 0:
        raise ValueError(f"{quoted(value)} is not more than 0; write it like 5s")
    return seconds


def size(at_least: int = 0, at_most: int = 2**62) -> Callable[[str], int]:
    def parse(value: str) -> int:
        found = re.fullmatch(r"([0-9]{1,18})([A-Za-z]*)", value)
        if not found or found[2] not in BYTES:
            raise ValueError(f"{quoted(value)} is not a size; write bytes, or KiB, MiB, GiB, such as 512MiB")
        number = int(found[1]) * BYTES[found[2]]
        if number < at_least:
            raise ValueError(f"{quoted(value)} is too small; write at least {at_least}")
        if number > at_most:
            raise ValueError(f"{quoted(value)} is too large; write at most {at_most}")
        return number

    return parse


def cache_size(value: str) -> int:
    """A size, or `auto`: a quarter of the memory this process may use, at most 4 GiB."""
    return min(memory_limit() // 4, MAX_VALUE_CACHE) if value == "auto" else size()(value)


def queue_size(value: str) -> int:
    """A size, or `auto`: an eighth of the memory this process may use, from 32 MiB to 1 GiB."""
    if value == "auto":
        return min(max(memory_limit() // 8, MIN_QUEUE), MAX_QUEUE)
    return size(at_least=1024 * 1024)(value)


def connections(value: str) -> int:
    """A number, or `auto`: 10,000, or less if the limit of open files, less those reserved, is lower."""
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 2**31 if files == resource.RLIM_INFINITY else files - min(RESERVED_FILES, files // 2)
    if value == "auto":
        return min(10_000, most)
    return count(1, most)(value)
