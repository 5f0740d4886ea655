"""``/containerLogs``: the query, and the chunked answer that follows a log.

Rules and texts are the kubelet's (pkg/kubelet/server/server.go getContainerLogs, kubelet_pods.go
validateContainerLogStatus): a query that cannot be read is 400, one that asks nonsense is 422.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from aiohttp import web

from vzkubelet import aio, errors
from vzkubelet.model.logs import LogEntry, LogOptions
from vzkubelet.model.pod import ContainerStatus, Pod
from vzkubelet.wire import log_lines

_log = logging.getLogger(__name__)

FIRST_ENTRY_WAIT_S: Final = 0.5
"""How long the answer's status waits for the first entry or an error; a silent log answers 200 then."""
CHUNK_BYTES: Final = 64 * 1024
"""Entries are gathered up to this while they come faster than the client reads; a slow log goes out entry by entry."""


@dataclass(frozen=True, slots=True)
class LogQuery:
    options: LogOptions
    previous: bool


def parse_query(query: Mapping[str, str], now_s: float) -> LogQuery:
    """Raises InvalidInput (400) and Unprocessable (422). Other parameters are ignored, as the kubelet does."""
    tail = query.get("tail") or query.get("tailLines")
    if tail == "all" and "tail" in query:
        tail = None
    tail_lines = _integer(tail)
    limit_bytes = _integer(query.get("limitBytes"))
    since_seconds = _integer(query.get("sinceSeconds"))
    since_ns = _time_ns(query.get("sinceTime"))
    if (
        (tail_lines is not None and tail_lines < 0)
        or (limit_bytes is not None and limit_bytes < 1)
        or (since_seconds is not None and (since_seconds < 1 or since_ns is not None))
    ):
        raise errors.Unprocessable('{"message": "Invalid request."}')
    if since_seconds is not None:
        since_ns = int((now_s - since_seconds) * 1_000_000_000)
    stream = query.get("stream", "")
    if stream not in ("", "All"):
        raise errors.InvalidInput(f'unable to return the given log stream: "{errors.clip(stream)}"')
    return LogQuery(
        LogOptions(
            follow=_boolean(query.get("follow")),
            tail_lines=tail_lines,
            since_ns=since_ns,
            limit_bytes=limit_bytes,
            timestamps=_boolean(query.get("timestamps")),
        ),
        previous=_boolean(query.get("previous")),
    )


def _undecodable() -> errors.InvalidInput:
    return errors.InvalidInput('{"message": "Unable to decode query."}')


def _integer(text: str | None) -> int | None:
    if text is None:
        return None
    digits = text[1:] if text[:1] in ("+", "-") else text
    if not (digits.isascii() and digits.isdigit() and len(digits) < 19):
        raise _undecodable()
    return int(text)


def _boolean(text: str | None) -> bool:
    """As the API machinery converts it: given without a value, or with any but these two, means true."""
    return text is not None and text != "0" and text.lower() != "false"


def _time_ns(text: str | None) -> int | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise _undecodable() from None
    if moment.tzinfo is None:
        raise _undecodable()
    return int(moment.timestamp() * 1_000_000) * 1000


def require_log(pod: Pod, container: str, *, previous: bool) -> None:
    """Raises InvalidInput (400) with the kubelet's words when the container cannot have a log yet."""
    name, status = pod.metadata.name, _container_status(pod, container)
    if status is None:
        raise errors.InvalidInput(f'container "{container}" in pod "{name}" is not available')
    last = status.last_state.terminated
    state = status.state
    if previous:
        if last is None or not last.container_id:
            raise errors.InvalidInput(f'previous terminated container "{container}" in pod "{name}" not found')
    elif state.running is not None or (last is not None and last.container_id):
        return
    elif state.terminated is not None or last is not None:
        if state.terminated is None or not state.terminated.container_id:
            raise errors.InvalidInput(f'container "{container}" in pod "{name}" is terminated')
    elif state.waiting is not None:
        reason = {
            "ErrImagePull": "image can't be pulled",
            "ImagePullBackOff": "trying and failing to pull image",
        }.get(state.waiting.reason, state.waiting.reason)
        raise errors.InvalidInput(f'container "{container}" in pod "{name}" is waiting to start: {reason}')
    else:
        raise errors.InvalidInput(f'container "{container}" in pod "{name}" is waiting to start - no logs yet')


def _container_status(pod: Pod, container: str) -> ContainerStatus | None:
    for statuses in (pod.status.container_statuses, pod.status.init_container_statuses):
        for status in statuses or ():
            if status.name == container:
                return status
    return None


async def answer(request: web.Request, entries: AsyncIterator[LogEntry], options: LogOptions) -> web.StreamResponse:
    """Stream the entries, each as soon as it is there. An error after the first byte cuts the answer visibly short.

    Raises what `entries` raises, as long as nothing was answered. Cancelling (the client left) closes `entries`.
    """
    pump = _Pump(entries, log_lines.Formatter(timestamps=options.timestamps, limit_bytes=options.limit_bytes))
    reader = aio.spawn(pump.run(), name="container log")
    try:
        await pump.settle(FIRST_ENTRY_WAIT_S)
        response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        try:
            while chunk := await pump.next_chunk():
                await response.write(chunk)
        except errors.Error as exc:
            _log.warning("log of %s cut short: %s", request.path, exc)
            if request.transport is not None:
                request.transport.abort()
            return response
        await response.write_eof()
        return response
    finally:
        await aio.cancel(reader)


class _Pump:
    """Gathers entries while the client is busy with the last chunk."""

    def __init__(self, entries: AsyncIterator[LogEntry], formatter: log_lines.Formatter) -> None:
        self._entries = entries
        self._formatter = formatter
        self._buffer = bytearray()
        self._done = False
        self._error: errors.Error | None = None
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    async def run(self) -> None:
        try:
            async for entry in self._entries:
                self._buffer += self._formatter.format(entry)
                if self._buffer:
                    self._filled.set()
                if self._formatter.exhausted:
                    break
                if len(self._buffer) >= CHUNK_BYTES:
                    self._room.clear()
                    await self._room.wait()
        except errors.Error as exc:
            self._error = exc
        except Exception:  # noqa: BLE001 - the guard of a task that foreign code runs in
            _log.exception("a container log failed in the agent itself")
            self._error = errors.Error("the node agent failed; its log says why")
        finally:
            self._done = True
            self._filled.set()
            if isinstance(self._entries, AsyncGenerator):
                await self._entries.aclose()

    async def settle(self, wait_s: float) -> None:
        """Raises the error that came before any entry; returns when there is an entry, or none for `wait_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._filled.wait()
        if self._error is not None and not self._buffer:
            raise self._error

    async def next_chunk(self) -> bytes:
        """Empty at the end. Raises the error that ended the log."""
        await self._filled.wait()
        chunk = bytes(self._buffer)
        self._buffer.clear()
        self._room.set()
        if not self._done:
            self._filled.clear()
        if not chunk and self._error is not None:
            raise self._error
        return chunk
