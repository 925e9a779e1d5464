"""What a peer may do often, and what only now and then."""

from __future__ import annotations


class Bucket:
    """Tokens: `capacity` at once, refilled at `rate` a second. Time is told, not asked."""

    __slots__ = ("_capacity", "_rate", "_since", "_tokens")

    def __init__(self, capacity: float, rate: float) -> None:
        self._capacity = capacity
        self._rate = rate
        self._tokens = capacity
        self._since = 0.0

    def take(self, now: float) -> bool:
        self._tokens = min(self._capacity, self._tokens + (now - self._since) * self._rate)
        self._since = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class PingPolicy:
    """Which pings are too many: grpc-go's rule, which etcd uses (keepalive.EnforcementPolicy).

    A ping is one too many if it comes sooner than `min_interval` after the one before, or sooner than two
    hours where no stream is open; after two such the connection ends. Clients also measure bandwidth, with
    a ping for a frame of data at most: each frame sent allows one, whenever it comes.
    """

    __slots__ = ("_last", "_min_interval", "_strikes", "allowance")

    _IDLE_INTERVAL = 7200.0
    _STRIKES = 2
    _MAX_ALLOWANCE = 10_000

    def __init__(self, min_interval: float) -> None:
        self._min_interval = min_interval
        self._last = -self._IDLE_INTERVAL
        self._strikes = 0
        self.allowance = 0  # the connection adds one a frame it sends

    def allows(self, now: float, streams: int) -> bool:
        if self.allowance:
            self.allowance = min(self.allowance, self._MAX_ALLOWANCE) - 1
            self._strikes = 0
            return True
        interval = self._min_interval if streams else self._IDLE_INTERVAL
        if now - self._last < interval:
            self._strikes += 1
        self._last = now
        return self._strikes <= self._STRIKES
