"""Reading a container's log from the engine, also over the engine's own restarts."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator

from vzkubelet import errors
from vzkubelet.ports import LogEntry, LogOptions
from vzkubelet.sidecars import containers, objects
from vzkubelet.sidecars.engine import Engine
from vzkubelet.sidecars.log_frames import FramedEntries, TerminalEntries

_log = logging.getLogger(__name__)
_RETRY_S = 0.5
_RETRY_MAX_S = 10.0
_NANOSECONDS = 1_000_000_000


async def read(engine: Engine, container_id: str, options: LogOptions) -> AsyncGenerator[LogEntry, None]:
    """Entries of one container; with `follow` until it has ended.

    A stream that breaks while the container may still run goes on after the last entry that came.

    Raises:
        NotFound: there is no such container (any more).
    """
    found = await engine.get(f"containers/{container_id}/json", objects.Container)
    since_ns, tail = options.since_ns, options.tail_lines
    delay_s = _RETRY_S
    while True:
        try:
            stream = _stream(engine, container_id, options.follow, found.config.tty, since_ns, tail)
            async with contextlib.aclosing(stream) as entries:
                async for entry in entries:
                    yield entry
                    since_ns, tail, delay_s = entry.time_ns + 1, None, _RETRY_S
            if not options.follow or not await _may_write_more(engine, container_id):
                return
        except errors.Unavailable as exc:
            if not options.follow:
                raise
            _log.warning("log of container %.12s: %s; going on in %.1f s", container_id, exc, delay_s)
        await asyncio.sleep(delay_s)
        delay_s = min(delay_s * 2, _RETRY_MAX_S)


async def _stream(
    engine: Engine, container_id: str, follow: bool, tty: bool, since_ns: int | None, tail: int | None
) -> AsyncGenerator[LogEntry, None]:
    params = {"stdout": "1", "stderr": "1", "timestamps": "1", "follow": "1" if follow else "0"}
    if tail is not None:
        params["tail"] = str(tail)
    if since_ns is not None:
        seconds, nanoseconds = divmod(max(since_ns, 0), _NANOSECONDS)
        params["since"] = f"{seconds}.{nanoseconds:09d}"
    entries = TerminalEntries() if tty else FramedEntries()
    async with engine.response("GET", f"containers/{container_id}/logs", params=params) as response:
        async for chunk in response.content.iter_any():
            for entry in entries.feed(chunk):
                yield entry
        for entry in entries.end():
            yield entry


async def _may_write_more(engine: Engine, container_id: str) -> bool:
    found = await engine.get(f"containers/{container_id}/json", objects.Container)
    return not containers.has_ended(found.state.status)
