"""Real etcds for kine as a proxy: on a port that stays the same, over TLS, or three as one cluster."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from tests.databases.process import free_port
from tests.process_reaper import end_with_this_process
from tests.servers import etcd, kine
from tests.servers.process import Instance

if TYPE_CHECKING:
    from pathlib import Path


class Etcds:
    """Starts etcd and kine processes, and ends them all."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.started: list[Instance] = []

    def etcd(self, *flags: str, port: int = 0, scheme: str = "http", name: str = "etcd") -> Instance:
        """Starts a single etcd; with the same name and port again, restarts it."""
        url = f"{scheme}://127.0.0.1:{port}"
        urls = (f"--listen-client-urls={url}", f"--advertise-client-urls={url}")
        return self._started(etcd.start(self.directory / name, flags=(*urls, *flags)))

    def cluster(self) -> list[Instance]:
        """Starts three members. They serve only together, so all are started before any is waited for."""
        peers = [f"http://127.0.0.1:{free_port()}" for _ in range(3)]
        clients = [free_port() for _ in range(3)]
        members = []
        for number, (peer, client) in enumerate(zip(peers, clients, strict=True)):
            directory = self.directory / f"member{number}"
            directory.mkdir()
            log = directory / "log"
            with log.open("wb") as output:
                process = subprocess.Popen(
                    [
                        etcd.binary(),
                        f"--name=m{number}",
                        f"--data-dir={directory / 'data'}",
                        f"--listen-client-urls=http://127.0.0.1:{client}",
                        f"--advertise-client-urls=http://127.0.0.1:{client}",
                        f"--listen-peer-urls={peer}",
                        f"--initial-advertise-peer-urls={peer}",
                        "--initial-cluster=" + ",".join(f"m{n}={url}" for n, url in enumerate(peers)),
                        "--heartbeat-interval=30",
                        "--election-timeout=300",
                        "--unsafe-no-fsync",
                        "--logger=zap",
                    ],
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            end_with_this_process(process.pid)
            members.append(self._started(Instance(f"127.0.0.1:{client}", directory, log, process)))
        return members

    def again(self, member: Instance) -> Instance:
        """Restarts a killed member on its data."""
        with member.log.open("ab") as output:
            process = subprocess.Popen(member.process.args, stdout=output, stderr=subprocess.STDOUT)
        end_with_this_process(process.pid)
        return self._started(Instance(member.address, member.directory, member.log, process))

    def kine(self, endpoint: str, *flags: str) -> Instance:
        return self._started(kine.start_kine(endpoint, "http2", self.directory / "kine", flags=flags))

    def waiting_kine(self, endpoint: str, *flags: str) -> str:
        """The log line of a kine that waits for an etcd."""

        def waits(line: str) -> str | None:
            return line if "waiting for etcd" in line else None

        started = kine.start_kine(endpoint, "http2", self.directory / "kine", flags=flags, until=waits)
        return self._started(started).address

    def _started(self, instance: Instance) -> Instance:
        self.started.append(instance)
        return instance

    def end(self) -> None:
        for instance in reversed(self.started):
            if instance.running:
                instance.kill()
