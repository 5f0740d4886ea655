import msgspec

from vzkubelet.kube.correlation import COMBINED_PREFIX, Correlator, Count, Create, Drop
from vzkubelet.model.event import Event
from vzkubelet.model.meta import ObjectMeta, ObjectReference
from vzkubelet.model.timestamp import from_epoch

NOW = 1_800_000_000.0


def event(message: str = "m", reason: str = "Pulling", *, now: float = NOW, pod: str = "p", path: str = "") -> Event:
    return Event(
        metadata=ObjectMeta(name=f"{pod}.{int(now * 1e9):x}", namespace="ns"),
        involved_object=ObjectReference(kind="Pod", namespace="ns", name=pod, uid=f"uid-{pod}", field_path=path),
        reason=reason,
        message=message,
        type="Normal",
        count=1,
        first_timestamp=from_epoch(now),
        last_timestamp=from_epoch(now),
    )


def store(correlator: Correlator, decision: Create | Count | Drop) -> Event:
    assert not isinstance(decision, Drop)
    correlator.stored(decision.key, decision.event)
    return decision.event


def test_the_same_again_is_counted_onto_the_first() -> None:
    correlator = Correlator()
    first = store(correlator, correlator.take(event(), NOW))
    second = correlator.take(event(now=NOW + 5), NOW + 5)
    assert isinstance(second, Count)
    assert second.event.metadata.name == first.metadata.name
    assert second.event.count == 2
    assert second.event.first_timestamp == from_epoch(NOW)
    assert second.event.last_timestamp == from_epoch(NOW + 5)
    store(correlator, second)
    third = correlator.take(event(now=NOW + 9), NOW + 9)
    assert isinstance(third, Count)
    assert third.event.count == 3


def test_what_was_never_written_is_not_counted_onto() -> None:
    correlator = Correlator()
    correlator.take(event(), NOW)
    assert isinstance(correlator.take(event(now=NOW + 1), NOW + 1), Create)


def test_message_reason_pod_and_container_tell_events_apart() -> None:
    correlator = Correlator()
    for other in (event(), event("n"), event(reason="Pulled"), event(pod="q"), event(path="spec.containers{c}")):
        decision = correlator.take(other, NOW)
        assert isinstance(decision, Create)
        store(correlator, decision)


def test_the_tenth_different_message_combines_the_rest() -> None:
    correlator = Correlator()
    for n in range(9):
        assert isinstance(store(correlator, correlator.take(event(f"m{n}"), NOW + n)), Event)
    combined = correlator.take(event("m9", now=NOW + 9), NOW + 9)
    assert isinstance(combined, Create)
    assert combined.event.message == COMBINED_PREFIX + "m9"
    store(correlator, combined)
    again = correlator.take(event("m10", now=NOW + 10), NOW + 10)
    assert isinstance(again, Count)
    assert again.event.message == COMBINED_PREFIX + "m10"
    assert again.event.count == 2


def test_similar_events_far_apart_are_not_combined() -> None:
    correlator = Correlator()
    for n in range(20):
        now = NOW + n * 601
        decision = correlator.take(event(f"m{n}", now=now), now)
        assert isinstance(decision, Create)
        assert not decision.event.message.startswith(COMBINED_PREFIX)


def test_one_object_cannot_flood_and_recovers_slowly() -> None:
    correlator = Correlator()
    kinds = [type(correlator.take(event(), NOW)) for _ in range(30)]
    assert kinds.count(Drop) == 5
    assert not isinstance(correlator.take(event(pod="other"), NOW), Drop)
    assert isinstance(correlator.take(event(), NOW + 299), Drop)
    assert not isinstance(correlator.take(event(), NOW + 601), Drop)


def test_a_clock_that_is_set_back_does_not_silence_events() -> None:
    correlator = Correlator()
    correlator.take(event(), NOW)
    assert not isinstance(correlator.take(event(now=NOW - 3600), NOW - 3600), Drop)


def test_events_stay_within_their_struct() -> None:
    assert msgspec.json.decode(msgspec.json.encode(event()))["firstTimestamp"].endswith("Z")
