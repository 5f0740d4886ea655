"""List and watch: the objects of one collection, kept up with whatever the API server and the network do.

Rules:
- A list is consistent (no resourceVersion): the first one decides what is removed as orphan, so it must not be of the
  past. A later one happens only when the watch position has been compacted away (410), and then deltas are made by
  comparison, deletions included.
- A watch that ends goes on where it was, bookmarks count. One that the server closes is made again at once, unless it
  was too short to be sane; every other end waits, 1 s doubling to 30 s, with jitter, and reset by progress.
- An object that does not decode is reported once and keeps its last known state; it never stops the others.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Set
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import msgspec

from vzkubelet.errors import Error, Gone, RemoteProtocolError, Unavailable
from vzkubelet.kube.client import Client, from_status
from vzkubelet.model.meta import ListMeta, Object, ObjectMeta, Status

_log = logging.getLogger(__name__)

BACKOFF_FIRST_S = 1.0
BACKOFF_MAX_S = 30.0
LIST_TIMEOUT_S = 60.0
WATCH_S = (1800, 3600)
"""timeoutSeconds is drawn from here: what the API server itself uses where a client names none (--min-request-timeout).
A watch costs a request each time; a dead peer is found by keep-alive, not by this."""
WATCH_MARGIN_S = 30.0
IDLE_LIMIT_S = 660.0
"""No byte for this long, and the watch is made again: a proxy may keep a connection alive that leads nowhere. Bookmarks
come every minute where anything happens, and a node reports its own status every five."""
SHORTEST_WATCH_S = 1.0
STEADY_WATCH_S = 10.0
EVENT_LIMIT_BYTES = 16 << 20
"""An object is at most 3 MiB in etcd; JSON and managedFields add to it."""


class Kept(Protocol):
    @property
    def metadata(self) -> ObjectMeta: ...


O = TypeVar("O", bound=Kept)  # noqa: E741
O_co = TypeVar("O_co", bound=Kept, covariant=True)


@dataclass(frozen=True, slots=True)
class Added(Generic[O_co]):
    object: O_co


@dataclass(frozen=True, slots=True)
class Modified(Generic[O_co]):
    """Any number of changes since the last delta of this object."""

    object: O_co


@dataclass(frozen=True, slots=True)
class Deleted(Generic[O_co]):
    """`object` is the last known state."""

    object: O_co


@dataclass(frozen=True, slots=True)
class Synced:
    """After the deltas of each list: what was not added until now does not exist."""


Delta = Added[O] | Modified[O] | Deleted[O] | Synced


class _WatchEvent(msgspec.Struct, frozen=True):
    type: str
    object: msgspec.Raw


class _RawList(Object, frozen=True):
    metadata: ListMeta = ListMeta()
    items: list[msgspec.Raw] | None = None


class _Envelope(msgspec.Struct, frozen=True):
    metadata: ObjectMeta = ObjectMeta()


class Reflector(Generic[O]):
    """Keeps `on_delta` told of the objects at `path` that match `field_selector`.

    `on_delta` is called in the event loop, in order, and must neither block nor raise. `run` never returns; cancel it.
    """

    def __init__(
        self,
        client: Client,
        path: str,
        as_: type[O],
        on_delta: Callable[[Delta[O]], None],
        *,
        field_selector: str = "",
        jitter: random.Random | None = None,
    ) -> None:
        self._client = client
        self._path = path
        self._kind = as_.__name__
        self._decoder = msgspec.json.Decoder(as_)
        self._on_delta = on_delta
        self._selector = {"fieldSelector": field_selector} if field_selector else {}
        self._random = jitter or random.Random()  # noqa: S311  spreads load, keeps no secret
        self._objects: dict[str, O] = {}
        self._position = ""
        self._undecodable: set[str] = set()
        self._failures = 0

    @property
    def objects(self) -> Mapping[str, O]:
        """What is known, by UID."""
        return self._objects

    @property
    def undecodable(self) -> Set[str]:
        """UIDs of what the API server holds and nobody here can read: unknown is not gone."""
        return self._undecodable

    async def run(self) -> None:
        """For ever: list where there is no position, watch, wait where that failed."""
        while True:
            began = asyncio.get_running_loop().time()
            listed = not self._position
            try:
                if listed:
                    await self._list()
                await self._watch()
            except Gone as exc:
                _log.info("%s watch at %s is too old, listing again: %s", self._kind, self._position, exc)
                self._position = ""
                if not listed or self._settle(began):
                    continue
            except Error as exc:
                self._settle(began)
                _log.warning("%s watch broke: %s", self._kind, exc)
            else:
                if self._settle(began):
                    continue
            delay_s = backoff_s(self._failures, self._random)
            self._failures += 1
            await asyncio.sleep(delay_s)

    def _settle(self, began: float) -> bool:
        """Whether this round was long enough to trust the server; if so its failures are forgotten."""
        lasted_s = asyncio.get_running_loop().time() - began
        if lasted_s >= STEADY_WATCH_S:
            self._failures = 0
        return lasted_s >= SHORTEST_WATCH_S and self._failures == 0

    async def _list(self) -> None:
        answer = await self._client.request("GET", self._path, _RawList, query=self._selector, timeout_s=LIST_TIMEOUT_S)
        listed: dict[str, O | None] = {}
        for raw in answer.items or []:
            uid, decoded = self._decode(raw)
            listed[uid] = decoded
        for uid in [uid for uid in self._objects if uid not in listed]:
            self._on_delta(Deleted(self._objects.pop(uid)))
        for decoded in listed.values():
            if decoded is not None:
                self._keep(decoded)
        self._undecodable &= listed.keys()
        self._position = answer.metadata.resource_version
        self._on_delta(Synced())

    async def _watch(self) -> None:
        life_s = self._random.randint(*WATCH_S)
        query: dict[str, str | int | bool] = {
            **self._selector,
            "watch": True,
            "allowWatchBookmarks": True,
            "resourceVersion": self._position,
            "timeoutSeconds": life_s,
        }
        async with (
            self._client.stream(self._path, query, timeout_s=life_s + WATCH_MARGIN_S) as chunks,
            contextlib.aclosing(lines(chunks, IDLE_LIMIT_S)) as events,
        ):
            async for line in events:
                self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            event = msgspec.json.decode(line, type=_WatchEvent)
        except msgspec.MsgspecError as exc:
            raise Unavailable(f"{self._kind} watch: not an event: {exc}") from exc
        match event.type:
            case "ADDED" | "MODIFIED":
                _, decoded = self._decode(event.object)
                if decoded is not None:
                    self._keep(decoded)
            case "DELETED":
                uid, decoded = self._decode(event.object)
                self._undecodable.discard(uid)
                known = self._objects.pop(uid, None)
                last = decoded if decoded is not None else known
                if known is not None and last is not None:
                    self._on_delta(Deleted(last))
            case "BOOKMARK":
                pass
            case "ERROR":
                raise from_status(_decoded_status(event.object))
            case other:
                _log.warning("%s watch: unknown event %r ignored", self._kind, other[:32])
                return
        self._position = _envelope(event.object).metadata.resource_version or self._position
        self._failures = 0

    def _keep(self, fresh: O) -> None:
        uid = fresh.metadata.uid
        known = self._objects.get(uid)
        self._objects[uid] = fresh
        if known is None:
            self._on_delta(Added(fresh))
        elif known.metadata.resource_version != fresh.metadata.resource_version:
            self._on_delta(Modified(fresh))

    def _decode(self, raw: msgspec.Raw) -> tuple[str, O | None]:
        """UID and object; None for one that cannot be read."""
        try:
            decoded = self._decoder.decode(raw)
        except msgspec.MsgspecError as exc:
            metadata = _envelope(raw).metadata
            if metadata.uid not in self._undecodable:
                self._undecodable.add(metadata.uid)
                _log.error("%s %s/%s cannot be read: %s", self._kind, metadata.namespace, metadata.name, exc)
            return metadata.uid, None
        self._undecodable.discard(decoded.metadata.uid)
        return decoded.metadata.uid, decoded


def backoff_s(failures: int, jitter: random.Random) -> float:
    """Wait after so many failures in a row: doubled each time, spread over half of itself."""
    whole_s = min(BACKOFF_FIRST_S * (1 << min(failures, 10)), BACKOFF_MAX_S)
    return whole_s * (0.75 + jitter.random() / 2)


async def lines(chunks: AsyncIterator[bytes], idle_limit_s: float) -> AsyncGenerator[bytes, None]:
    """The lines of a stream without their ends; a last one without an end is half an event and is dropped.

    Raises:
        Unavailable: no byte within `idle_limit_s`. RemoteProtocolError: an event without end.
    """
    parts: list[bytes] = []
    held = 0
    while True:
        try:
            async with asyncio.timeout(idle_limit_s):
                chunk = await anext(chunks, None)
        except TimeoutError as exc:
            raise Unavailable(f"the watch was silent for {idle_limit_s:.0f} s") from exc
        if chunk is None:
            return
        *ended, rest = chunk.split(b"\n")
        for line in ended:
            whole = b"".join([*parts, line])
            parts, held = [], 0
            if whole:
                yield whole
        if rest:
            parts.append(rest)
            held += len(rest)
            if held > EVENT_LIMIT_BYTES:
                raise RemoteProtocolError(f"a watch event is longer than {EVENT_LIMIT_BYTES} bytes")


def _envelope(raw: msgspec.Raw) -> _Envelope:
    try:
        return msgspec.json.decode(raw, type=_Envelope)
    except msgspec.MsgspecError as exc:
        raise Unavailable(f"an object without readable metadata: {exc}") from exc


def _decoded_status(raw: msgspec.Raw) -> Status:
    try:
        return msgspec.json.decode(raw, type=Status)
    except msgspec.MsgspecError:
        return Status(message="the API server ended the watch with an error of unknown form")
