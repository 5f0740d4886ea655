"""Hosts that ask to be left alone for a while: Retry-After (RFC 9110 section 10.2.3), for all requests to them."""

import asyncio
import email.utils
import re

RETRY_AFTER_MAX_S = 120.0
"""Longer than that nobody waits inside one pull: it fails, and the pod's back-off decides when to come again."""
RETRY_AFTER_DEFAULT_S = 1.0
"""After a 429 that does not say how long."""
_SECONDS = re.compile("[ \t]*([0-9]{1,9})[ \t]*")


def retry_after_s(value: str, now_s: float) -> float | None:
    """What a Retry-After header asks for: seconds or an HTTP date, at most `RETRY_AFTER_MAX_S`.

    `now_s` is the wall clock. None = there is nothing readable in it.
    """
    if seconds := _SECONDS.fullmatch(value):
        return min(float(seconds[1]), RETRY_AFTER_MAX_S)
    try:
        at_s = email.utils.parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, OverflowError, OSError):
        return None
    return min(max(at_s - now_s, 0.0), RETRY_AFTER_MAX_S)


class Holds:
    """Which hosts are not to be asked before when; belongs to one event loop."""

    def __init__(self) -> None:
        self._until_s: dict[str, float] = {}

    def hold(self, host: str, duration_s: float) -> None:
        """Nobody asks `host` for that long. A shorter hold does not end a longer one."""
        until_s = asyncio.get_running_loop().time() + duration_s
        self._until_s[host] = max(until_s, self._until_s.get(host, 0.0))

    async def passed(self, host: str) -> None:
        """Return when `host` may be asked."""
        while (left_s := self._until_s.get(host, 0.0) - asyncio.get_running_loop().time()) > 0:  # noqa: ASYNC110 - not a poll
            await asyncio.sleep(left_s)  # a hold may have become longer meanwhile
        self._until_s.pop(host, None)
