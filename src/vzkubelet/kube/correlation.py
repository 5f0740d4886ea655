"""What becomes of an event: created, counted onto an earlier one, combined with similar ones, or dropped as spam.

The rules and figures of client-go's EventCorrelator (``tools/record/events_cache.go``). Pure: time is an argument.
"""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, TypeVar

import msgspec

from vzkubelet.kube.rate import TokenBucket
from vzkubelet.model.event import Event
from vzkubelet.model.timestamp import from_epoch

CACHE_ENTRIES = 4096
SIMILAR_LIMIT = 10
SIMILAR_WINDOW_S = 600.0
SPAM_BURST = 25
SPAM_PER_S = 1 / 300
COMBINED_PREFIX = "(combined from similar events): "

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Create:
    """`key` is what `Correlator.stored` is told when the event was written."""

    event: Event
    key: Hashable


@dataclass(frozen=True, slots=True)
class Count:
    """The same happened before: raise the count of the event that was written then."""

    event: Event
    """With the earlier one's name, first time and the new count."""
    key: Hashable


@dataclass(frozen=True, slots=True)
class Drop:
    """Too many events about one object."""


class _Recent(Generic[V]):
    """A mapping that forgets the entries that were not used for longest."""

    def __init__(self) -> None:
        self._entries: OrderedDict[Hashable, V] = OrderedDict()

    def get(self, key: Hashable) -> V | None:
        if key in self._entries:
            self._entries.move_to_end(key)
        return self._entries.get(key)

    def put(self, key: Hashable, value: V) -> None:
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > CACHE_ENTRIES:
            self._entries.popitem(last=False)

    def remove(self, key: Hashable) -> None:
        self._entries.pop(key, None)


@dataclass(slots=True)
class _Similar:
    messages: set[str] = field(default_factory=set)
    last: datetime | None = None


class _EventClock:
    """The time of the event at hand, for its object's token bucket."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


class Correlator:
    """One per source of events."""

    def __init__(self) -> None:
        self._buckets: _Recent[TokenBucket] = _Recent()
        self._similar: _Recent[_Similar] = _Recent()
        self._stored: _Recent[Event] = _Recent()
        self._clock = _EventClock()

    def take(self, event: Event, now: float) -> Create | Count | Drop:
        """Decide on an event with count 1 that happens at `now`, seconds since the epoch."""
        if not self._bucket(event, now).try_take():
            return Drop()
        event, key = self._combined(event, now)
        known = self._stored.get(key)
        if known is None:
            return Create(event, key)
        metadata = known.metadata
        count = known.count + 1
        return Count(
            msgspec.structs.replace(event, metadata=metadata, first_timestamp=known.first_timestamp, count=count), key
        )

    def stored(self, key: Hashable, event: Event) -> None:
        """The API server has this event now."""
        self._stored.put(key, event)

    def lost(self, key: Hashable) -> None:
        """The API server no longer has the event of this key (events live an hour)."""
        self._stored.remove(key)

    def _bucket(self, event: Event, now: float) -> TokenBucket:
        self._clock.now = max(self._clock.now, now)  # a wall clock that is set back must not empty the buckets
        key = (event.involved_object, event.type)
        bucket = self._buckets.get(_frozen(key))
        if bucket is None:
            bucket = TokenBucket(SPAM_PER_S, SPAM_BURST, self._clock)
            self._buckets.put(_frozen(key), bucket)
        return bucket

    def _combined(self, event: Event, now: float) -> tuple[Event, Hashable]:
        """The event and its key; from the tenth different message on, one event stands for all."""
        key = ("similar", event.involved_object.uid, event.involved_object.name, event.type, event.reason)
        similar = self._similar.get(key)
        moment = from_epoch(now)
        if similar is None or similar.last is None or (moment - similar.last).total_seconds() > SIMILAR_WINDOW_S:
            similar = _Similar()
            self._similar.put(key, similar)
        similar.messages.add(event.message)
        similar.last = moment
        if len(similar.messages) < SIMILAR_LIMIT:
            return event, (*key, event.involved_object.field_path, event.message)
        similar.messages.pop()
        return msgspec.structs.replace(event, message=COMBINED_PREFIX + event.message), key


def _frozen(key: tuple[object, ...]) -> Hashable:
    return msgspec.json.encode(key)
