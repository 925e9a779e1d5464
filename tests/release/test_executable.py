"""The self-contained executable: one file without need of Python or a C library; and what it unpacks."""

from __future__ import annotations

import fcntl
import filecmp
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import trustme

from tests.certificates import write_authority, write_pair
from tests.client import Client
from tests.executable import (
    BUSYBOX,
    MUSL,
    NOBODY,
    ROOT,
    Mount,
    Root,
    address,
    build,
    empty_root,
    executable,
    missing,
    musl_root,
    put_and_get,
)
from tests.servers import backends
from tests.servers.kine import start_kine

pytestmark = [
    pytest.mark.engines,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(missing()), reason=f"the executable is not built here: {missing()}"),
]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to change it")
needs_musl = pytest.mark.skipif(not (MUSL.exists() and BUSYBOX.exists()), reason="no musl or busybox-static")

BACKENDS = {
    backend.kind
    for backend in backends()
    if backend.transport == "http2" and backend.kind not in ("nats-cluster", "etcd") and not backend.missing()
}
PROC = Mount("proc", "/proc")
FLAGS = ("--listen-address=127.0.0.1:0", "--metrics-bind-address=0")


@pytest.fixture(scope="module")
def kine() -> Path:
    return executable()


@pytest.fixture
def cache() -> Iterator[Path]:
    """The directory to unpack into, below /var/tmp: an ancestor that others can write is refused."""
    with tempfile.TemporaryDirectory(prefix="kine-cache-", dir="/var/tmp") as path:
        yield Path(path)


@contextmanager
def installed(kine: Path, make: Callable[[Path], AbstractContextManager[Root]]) -> Iterator[Root]:
    with tempfile.TemporaryDirectory(prefix="kine-root-", dir="/var/tmp") as path, make(Path(path)) as made:
        made.install(kine, "/kine")
        yield made


@pytest.fixture
def root(kine: Path) -> Iterator[Root]:
    with installed(kine, empty_root) as made:
        yield made


@pytest.fixture
def alpine(kine: Path) -> Iterator[Root]:
    with installed(kine, musl_root) as made:
        yield made


def environment(cache: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "KINE_UNPACK_DIR": str(cache)}


def version(kine: Path, cache: Path) -> str:
    done = subprocess.run(
        [kine, "--version"], env=environment(cache), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def shelf(cache: Path) -> Path:
    return cache / f"kine-{os.geteuid()}"


def unpacked(cache: Path) -> Path:
    [found] = [path for path in shelf(cache).iterdir() if path.is_dir()]
    return found


# ---- one process


def test_it_is_one_process_with_the_name_it_was_called_by(kine: Path, cache: Path, tmp_path: Path) -> None:
    binaries = tmp_path / "binaries"
    binaries.mkdir()
    (binaries / "kine").symlink_to(kine)
    command = [str(binaries / "kine"), f"--endpoint=sqlite://{tmp_path}/s.db", *FLAGS]
    process = subprocess.Popen(
        command, env=environment(cache) | {"_K0S_MANAGED": "yes"}, stderr=subprocess.PIPE
    )
    where = address(process)
    put_and_get(where)
    own = Path(f"/proc/{process.pid}")

    assert (own / "cmdline").read_bytes().rstrip(b"\0").decode().split("\0") == command
    assert b"_K0S_MANAGED=yes" in (own / "environ").read_bytes().split(b"\0")
    assert (own / "comm").read_text() == "kine\n"
    assert (own / "cwd").readlink() == Path.cwd()
    assert (own / "task" / str(process.pid) / "children").read_text() == ""

    process.kill()
    assert process.wait(30) == -signal.SIGKILL
    host, _, port = where.rpartition(":")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), timeout=10).close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_stops_the_server(kine: Path, cache: Path, tmp_path: Path, number: signal.Signals) -> None:
    command = [kine, f"--endpoint=sqlite://{tmp_path}/s.db", *FLAGS]
    process = subprocess.Popen(command, env=environment(cache), stderr=subprocess.PIPE)
    address(process)
    process.send_signal(number)
    assert process.wait(60) == 0


def test_workers_are_started_from_it(kine: Path, cache: Path, tmp_path: Path) -> None:
    command = [kine, f"--endpoint=sqlite://{tmp_path}/s.db", "--workers=2", *FLAGS]
    process = subprocess.Popen(command, env=environment(cache), stderr=subprocess.PIPE)
    put_and_get(address(process))
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.terminate()
    assert process.wait(60) == 0
    assert len(children) == 2


def test_its_libraries_are_no_childs(kine: Path, cache: Path, tmp_path: Path) -> None:
    """Variables set for the executable itself are not inherited; the user's own are restored."""
    seen = tmp_path / "seen"
    config = tmp_path / "aws"
    config.write_text(f"[default]\ncredential_process = /bin/sh -c 'env > {seen}; exit 1'\n")
    given = {
        "AWS_CONFIG_FILE": str(config),
        "LD_LIBRARY_PATH": "/of/the/user",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    command = [
        kine,
        "--endpoint=postgres://u@127.0.0.1:1/k?sslmode=require",
        "--identity-provider=aws",
        *FLAGS,
    ]
    process = subprocess.Popen(
        command, env=environment(cache) | given | {"AWS_REGION": "eu-west-1"}, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 60
    while not seen.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    time.sleep(0.2)
    process.kill()
    _, log = process.communicate()
    variables = (
        dict(line.split("=", 1) for line in seen.read_text().splitlines() if "=" in line)
        if seen.exists()
        else {}
    )

    assert variables.get("LD_LIBRARY_PATH") == "/of/the/user", log.decode()
    assert [name for name in variables if name.startswith("_KINE")] == []


# ---- where it runs


@needs_root
def test_in_an_empty_root_as_any_user(root: Root) -> None:
    """No /proc, /tmp, /etc, no HOME; only its own working directory is writable."""
    root.directory("/data", owner=12345, mode=0o700)
    process = root.start(
        ["/kine", "--endpoint=sqlite://state.db", *FLAGS], directory="/data", user=12345, group=4321
    )
    put_and_get(address(process))
    process.terminate()
    assert process.wait(60) == 0
    assert (root.path / "data" / "state.db").exists()


@needs_root
@needs_musl
@pytest.mark.parametrize(
    ("mounts", "read_only"),
    [
        ([PROC], False),
        ([PROC], True),
        ([PROC, Mount("tmpfs", "/tmp", "size=64m,mode=1777")], True),
        ([PROC, Mount("tmpfs", "/tmp", "mode=1777", noexec=True)], True),
        ([Mount("tmpfs", "/tmp", "mode=1777")], True),
    ],
    ids=["alpine", "read-only", "tmp of 64 MB", "tmp noexec", "tmp without proc"],
)
def test_in_a_musl_root(alpine: Root, mounts: list[Mount], read_only: bool) -> None:
    process = alpine.start(
        ["/kine", "--endpoint=memory://", *FLAGS],
        mounts=mounts,
        read_only=read_only,
        environment={"HOME": "/none"},
    )
    put_and_get(address(process))
    process.terminate()
    assert process.wait(60) == 0


@needs_root
def test_where_there_is_no_place_it_says_so(root: Root) -> None:
    code, _, errors = root.run(["/kine", "--version"], read_only=True)

    assert code == 1
    assert "name a directory of your own with KINE_UNPACK_DIR" in errors
    assert "memory: needs /proc" in errors


@needs_root
def test_commands_work_from_it_in_an_empty_root(root: Root) -> None:
    root.directory("/data", owner=NOBODY, mode=0o700)
    options = {"directory": "/data"}
    server = root.start(["/kine", "--endpoint=sqlite:///data/s.db", *FLAGS], **options)  # type: ignore[arg-type]
    where = address(server)
    put_and_get(where)
    commands = [
        ["status", "--endpoint", f"http://{where}"],
        ["snapshot", "save", "s.kine", "--endpoint", f"http://{where}"],
        ["snapshot", "status", "s.kine"],
        ["check", "--endpoint", "sqlite:///data/s.db"],
        ["migrate", "--from", f"http://{where}", "--to", "sqlite:///data/moved.db"],
        ["snapshot", "restore", "s.kine", "--endpoint", "sqlite:///data/restored.db"],
    ]
    for command in commands:
        code, _, errors = root.run(["/kine", *command], **options)
        assert code == 0, (command, errors)
    for name in ("moved.db", "restored.db"):
        other = root.start(["/kine", f"--endpoint=sqlite:///data/{name}", *FLAGS], **options)  # type: ignore[arg-type]
        with Client(address(other)) as client:
            assert client.range(b"/a").kvs[0].value == b"1"


@needs_root
@needs_musl
@pytest.mark.parametrize(
    "path", ["/etc/ssl/cert.pem", "/etc/ssl/certs/ca-certificates.crt"], ids=["Alpine", "Debian"]
)
def test_it_trusts_the_systems_authorities(alpine: Root, tmp_path: Path, path: str) -> None:
    authority = trustme.CA()
    ca = write_authority(tmp_path, authority)
    cert, key = write_pair(tmp_path, authority)
    alpine.directory(os.path.dirname(path))
    behind = start_kine(
        f"sqlite://{tmp_path}/s.db",
        "http2",
        tmp_path,
        flags=(f"--server-cert-file={cert}", f"--server-key-file={key}"),
    )
    command = ["/kine", f"--endpoint=https://{behind.address}", *FLAGS]
    shutil.copyfile(ca, alpine.path / path.lstrip("/"))
    trusting = alpine.start(command, mounts=[PROC])
    put_and_get(address(trusting))
    trusting.terminate()
    assert trusting.wait(60) == 0
    assert behind.stop() == 0


def test_embedded_nats_runs_from_it(kine: Path, cache: Path, tmp_path: Path) -> None:
    command = [kine, f"--endpoint=nats://?dataDir={tmp_path}/nats", *FLAGS]
    process = subprocess.Popen(command, env=environment(cache), stderr=subprocess.PIPE)
    put_and_get(address(process))
    process.terminate()
    assert process.wait(60) == 0


# ---- what it unpacks


def test_it_unpacks_once_into_a_directory_of_its_owner(kine: Path, cache: Path) -> None:
    assert version(kine, cache).startswith("kine version ")
    found = unpacked(cache)
    before = {path: path.stat().st_ino for path in found.rglob("*")}
    version(kine, cache)

    assert {path: path.stat().st_ino for path in found.rglob("*")} == before
    assert shelf(cache).stat().st_mode & 0o777 == 0o700
    assert [path for path in found.rglob("*") if path.is_file() and path.stat().st_mode & 0o022] == []


def test_many_starts_at_once_leave_one(kine: Path, cache: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        said = set(pool.map(lambda _: version(kine, cache), range(8)))

    assert len(said) == 1
    unpacked(cache)


def test_killed_at_any_moment_the_next_start_has_it_whole(kine: Path, cache: Path) -> None:
    for milliseconds in (1, 20, 60, 120, 250):
        process = subprocess.Popen([kine, "--version"], env=environment(cache), stdout=subprocess.DEVNULL)
        time.sleep(milliseconds / 1000)
        process.kill()
        process.wait()
    assert version(kine, cache).startswith("kine version ")
    unpacked(cache)


@pytest.mark.parametrize("damage", ["missing", "short", "other since another boot"])
def test_a_damaged_one_is_replaced(kine: Path, cache: Path, damage: str) -> None:
    said = version(kine, cache)
    library = unpacked(cache) / "lib" / "libc.so.6"
    library.chmod(0o600)
    if damage == "missing":
        library.unlink()
    elif damage == "short":
        os.truncate(library, 4096)
    else:
        with library.open("r+b") as file:
            file.write(bytes(4096))
        (unpacked(cache) / "boot").write_text("another")

    assert version(kine, cache) == said


def test_a_whole_one_of_another_boot_is_kept(kine: Path, cache: Path) -> None:
    version(kine, cache)
    number = (unpacked(cache) / "kine").stat().st_ino
    (unpacked(cache) / "boot").write_text("another")
    version(kine, cache)

    assert (unpacked(cache) / "kine").stat().st_ino == number
    assert (unpacked(cache) / "boot").read_text() != "another"


def test_old_ones_are_removed_but_those_in_use(kine: Path, cache: Path) -> None:
    for name in ("old", "running"):
        (shelf(cache) / name / "lib").mkdir(parents=True)
        (shelf(cache) / name / "used").touch()
    shelf(cache).chmod(0o700)
    with (shelf(cache) / "running" / "used").open("r+") as used:
        fcntl.flock(used, fcntl.LOCK_SH)
        version(kine, cache)
        left = {path.name for path in shelf(cache).iterdir() if path.is_dir()}
    version(kine, cache)

    assert left == {"running", unpacked(cache).name}


def test_a_running_server_keeps_its_own(kine: Path, cache: Path, tmp_path: Path) -> None:
    command = [kine, f"--endpoint=sqlite://{tmp_path}/s.db", *FLAGS]
    process = subprocess.Popen(command, env=environment(cache), stderr=subprocess.PIPE)
    address(process)
    with (unpacked(cache) / "used").open("r+") as used, pytest.raises(BlockingIOError):
        fcntl.flock(used, fcntl.LOCK_EX | fcntl.LOCK_NB)
    process.kill()
    process.wait()
    with (unpacked(cache) / "used").open("r+") as used:
        fcntl.flock(used, fcntl.LOCK_EX | fcntl.LOCK_NB)


@needs_root
@needs_musl
@pytest.mark.parametrize("trap", ["owned", "link", "open"])
def test_a_directory_that_another_user_prepared_is_not_used(alpine: Root, trap: str) -> None:
    prepared = alpine.path / "tmp" / f"kine-{NOBODY}"
    elsewhere = alpine.directory("/elsewhere", owner=1000, mode=0o777)
    if trap == "link":
        prepared.symlink_to("/elsewhere")
        os.chown(prepared, 1000, 1000, follow_symlinks=False)
    else:
        prepared.mkdir()
        owner = 1000 if trap == "owned" else NOBODY
        os.chown(prepared, owner, owner)
        prepared.chmod(0o777)

    code, said, errors = alpine.run(["/kine", "--version"], mounts=[PROC])

    assert (code, errors) == (0, "")
    assert said.startswith("kine version ")
    assert list(elsewhere.iterdir()) == []
    assert trap == "link" or list(prepared.iterdir()) == []


@needs_root
@needs_musl
def test_a_directory_below_one_that_others_can_write_is_not_used(alpine: Root) -> None:
    alpine.directory("/open", mode=0o777)
    alpine.directory("/open/mine", owner=NOBODY, mode=0o700)
    code, _, errors = alpine.run(
        ["/kine", "--version"], mounts=[PROC], environment={"KINE_UNPACK_DIR": "/open/mine"}
    )

    assert code == 0
    assert "others can write /open" in errors
    assert list((alpine.path / "open/mine").iterdir()) == []


@needs_root
@needs_musl
def test_nothing_is_made_in_another_users_home(alpine: Root) -> None:
    home = alpine.directory("/home/someone", owner=1000, mode=0o755)
    code, _, errors = alpine.run(
        ["/kine", "--version"], mounts=[PROC], user=0, group=0, environment={"HOME": "/home/someone"}
    )

    assert (code, errors) == (0, "")
    assert list(home.iterdir()) == []


def test_it_is_all_in_one_file(kine: Path, tmp_path: Path) -> None:
    copy = tmp_path / "kine"
    shutil.copyfile(kine, copy)
    copy.chmod(0o711)

    said = subprocess.run(
        ["readelf", "--program-headers", copy], capture_output=True, text=True, check=True
    ).stdout
    assert "INTERP" not in said
    assert "DYNAMIC" not in said


def test_two_builds_are_the_same(kine: Path, tmp_path: Path) -> None:
    build(tmp_path / "again")
    assert filecmp.cmp(tmp_path / "again", kine, shallow=False)


@pytest.mark.parametrize(
    "chosen",
    [
        ["tests/etcd/test_kubernetes.py", "--backend=sqlite"],
        [
            *("tests/etcd/test_put.py", "-k", "answers_with or prev_kv_is or unknown_lease"),
            *(f"--backend={name}" for name in sorted(BACKENDS)),
        ],
    ],
    ids=["what Kubernetes sends", "every backend"],
)
def test_the_shared_suites_short_form(kine: Path, cache: Path, chosen: list[str]) -> None:
    suite = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "--transport=http2",
        *chosen,
    ]
    given = {**os.environ, **environment(cache), "KINE_TEST_EXECUTABLE": str(kine)}
    done = subprocess.run(suite, cwd=ROOT, env=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout
