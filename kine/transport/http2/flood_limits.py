"""Rate limits against HTTP/2 floods: a token bucket for cheap frames, and grpc-go's ping policy."""

from __future__ import annotations


class Bucket:
    """A token bucket: `capacity` tokens, refilled by `rate` a second and `per_frame` for each response frame.

    The caller passes the time and the number of response frames sent so far. So a peer that gets many
    responses may send many frames, and a peer that only sends runs out of tokens.
    """

    __slots__ = ("_capacity", "_per_frame", "_rate", "_sent", "_since", "_tokens")

    def __init__(self, capacity: float, rate: float, per_frame: float = 0) -> None:
        self._capacity = capacity
        self._rate = rate
        self._per_frame = per_frame
        self._tokens = capacity
        self._since = 0.0
        self._sent = 0

    def take(self, now: float, sent: int = 0) -> bool:
        earned = (now - self._since) * self._rate + (sent - self._sent) * self._per_frame
        self._tokens = min(self._capacity, self._tokens + earned)
        self._since = now
        self._sent = sent
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class PingPolicy:
    """The limit on client pings: grpc-go's rule, which etcd uses (keepalive.EnforcementPolicy).

    A ping is a strike if it comes sooner than `min_interval` after the previous one, or sooner than two hours
    while no stream is open. The connection ends at the third strike. Clients also ping to measure bandwidth,
    at most once per DATA frame, so each response frame allows one ping at any time.
    """

    __slots__ = ("_allowance", "_last", "_min_interval", "_sent", "_strikes")

    _IDLE_INTERVAL = 7200.0
    _STRIKES = 2
    _MAX_ALLOWANCE = 10_000

    def __init__(self, min_interval: float) -> None:
        self._min_interval = min_interval
        self._last = -self._IDLE_INTERVAL
        self._strikes = 0
        self._allowance = 0
        self._sent = 0

    def allows(self, now: float, streams: int, sent: int) -> bool:
        """False if the connection should end. `sent` counts the response frames sent so far."""
        self._allowance = min(self._allowance + sent - self._sent, self._MAX_ALLOWANCE)
        self._sent = sent
        if self._allowance:
            self._allowance -= 1
            self._strikes = 0
            return True
        interval = self._min_interval if streams else self._IDLE_INTERVAL
        if now - self._last < interval:
            self._strikes += 1
        self._last = now
        return self._strikes <= self._STRIKES
