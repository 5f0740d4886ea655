"""Requests of the node's identity, counted from the audit log."""

import msgspec

from bench import idle
from tests.cluster.audit import AuditEvent

NODE = "system:node:vz-bench"
AT_NOON = 1795262400.0


def event(audit_id: str, second: float = 1.0, user: str = NODE, **fields: object) -> AuditEvent:
    whole, microseconds = divmod(round(second * 1_000_000), 1_000_000)
    found = {
        "auditID": audit_id,
        "stage": "ResponseComplete",
        "verb": "patch",
        "requestURI": "/apis/x",
        "user": {"username": user},
        "objectRef": {"resource": "leases"},
        "requestReceivedTimestamp": f"2026-11-21T12:00:{whole:02d}.{microseconds:06d}Z",
        **fields,
    }
    return msgspec.convert(found, AuditEvent)


def count(*events: AuditEvent) -> dict[str, int]:
    return idle.count(events, NODE, AT_NOON, AT_NOON + 10)


def test_requests_are_counted_by_verb_and_resource_most_frequent_first() -> None:
    status = {"resource": "nodes", "subresource": "status"}
    found = count(event("a", objectRef=status), event("b"), event("c"))
    assert list(found.items()) == [("patch leases", 2), ("patch nodes/status", 1)]


def test_a_watch_with_two_stages_is_one_request() -> None:
    pods = {"resource": "pods"}
    assert count(
        event("a", verb="watch", objectRef=pods, stage="ResponseStarted"), event("a", verb="watch", objectRef=pods)
    ) == {"watch pods": 1}


def test_a_watch_that_was_opened_before_the_window_and_ends_in_it_does_not_count() -> None:
    assert count(event("a", verb="watch", requestReceivedTimestamp="2026-11-21T11:55:00.000000Z")) == {}


def test_the_window_includes_its_beginning_and_not_its_end() -> None:
    assert count(event("a", 0.0), event("b", 10.0), event("c", 9.999)) == {"patch leases": 2}


def test_other_identities_do_not_count() -> None:
    assert count(event("a", user="kubernetes-admin"), event("b", user="system:node:other")) == {}


def test_a_request_for_no_resource_is_named_by_its_path() -> None:
    assert count(event("a", verb="get", requestURI="/version", objectRef={})) == {"get /version": 1}
