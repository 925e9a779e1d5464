"""Every command line that starts Go kine v0.17.5 starts kine: a stored list of its flags, against kine's."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from shutil import which
from typing import NamedTuple

import pytest

from kine import drivers
from kine.cli import main
from kine.config import FLAGS, T4_FLAGS, SettingError, settings
from kine.drivers.base import Options
from kine.go_flags import UsageError, normalize

FORK = {"identity-provider"}
OURS = {
    "transport",
    "workers",
    "value-cache-bytes",
    "max-request-bytes",
    "max-connections",
    "max-queued-bytes",
    "max-watches-per-connection",
    "identity-timeout",
    "max-leases",
}
PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"
DECLARED = {flag.name: flag for flag in FLAGS}


class Stored(NamedTuple):
    name: str
    variables: str
    default: str


STORED = [
    Stored(*line.replace(" -", " ").split(" "))
    for line in Path(__file__).with_name("go_kine_flags.txt").read_text().splitlines()
    if not line.startswith("#")
]


def test_flags_are_go_kines_the_forks_and_ours() -> None:
    assert set(DECLARED) | set(T4_FLAGS) == {stored.name for stored in STORED} | FORK | OURS


@pytest.mark.parametrize(
    "stored", [stored for stored in STORED if stored.name not in T4_FLAGS], ids=lambda s: s[0]
)
def test_a_flag_has_go_kines_variable_and_default(stored: Stored) -> None:
    flag = DECLARED[stored.name]

    assert flag.variable == stored.variables
    assert flag.parse(flag.default) == flag.parse(stored.default)


@pytest.mark.skipif(not (program := which("go-kine")), reason="no go-kine in the PATH")
def test_the_stored_list_is_what_go_kine_says() -> None:
    told = subprocess.run([str(program), "--help"], capture_output=True, text=True, timeout=60).stdout
    found = re.findall(r"^ +--([a-z0-9-]+)(?: value)? .*?\[([$A-Z0-9_, ]+)\]$", told, re.MULTILINE)

    assert {(name, variables.replace("$", "").replace(" ", "")) for name, variables in found} == {
        (stored.name, stored.variables) for stored in STORED
    }


@pytest.mark.parametrize("written", ["0", "0s", "-1s"])
def test_the_poll_interval_is_more_than_0(written: str) -> None:
    with pytest.raises(SettingError, match=r"--datastore-poll-interval: .*is not more than 0"):
        settings({"datastore_poll_interval": written}, {})


def test_the_poll_interval_reaches_the_driver() -> None:
    chosen = settings({}, {"KINE_DATASTORE_POLL_INTERVAL": "50ms"})

    assert chosen.driver_options().poll_interval == 0.05


# ---- t4


@pytest.mark.parametrize("name", T4_FLAGS)
def test_a_flag_of_t4_names_what_to_use_instead(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([f"--{name}=planted-value"])

    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert f"--{name}: t4" in said
    assert "litestream://" in said
    assert "planted-value" not in said


@pytest.mark.parametrize("name", ["KINE_PEER_BIND_ADDRESS", "KINE_S3_BUCKET"])
def test_a_variable_of_t4_names_what_to_use_instead(name: str) -> None:
    with pytest.raises(SettingError, match=rf"^{name}: t4.*litestream://"):
        settings({}, {name: "bucket"})


def test_variables_of_aws_itself_are_nobodys_mistake() -> None:
    assert settings({}, {"AWS_REGION": "eu-central-1", "AWS_PROFILE": "kine"}) == settings({}, {})


def test_the_endpoint_of_t4_names_what_to_use_instead() -> None:
    with pytest.raises(ValueError, match=r"t4.*litestream://.*postgres://"):
        drivers.connect("t4:///var/lib/kine", Options())


def test_the_page_lists_what_is_not_supported() -> None:
    text = PAGE.read_text()

    assert [name for name in T4_FLAGS if f"`--{name}`" not in text] == []
    assert "`t4://`" in text


def test_a_flag_that_nobody_has_is_no_flag_of_t4() -> None:
    with pytest.raises(UsageError, match="is not a flag"):
        normalize(["--s3-buckets=x"], {}, (), dict.fromkeys(T4_FLAGS, "use another"))
