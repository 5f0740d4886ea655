"""Event (core/v1), as the kubelet writes it."""

from datetime import datetime

from vzkubelet.model.meta import Object, ObjectMeta, ObjectReference


class EventSource(Object, frozen=True):
    component: str = ""
    host: str = ""


class Event(Object, frozen=True):
    api_version: str = "v1"
    kind: str = "Event"
    metadata: ObjectMeta = ObjectMeta()
    involved_object: ObjectReference = ObjectReference()
    reason: str = ""
    message: str = ""
    source: EventSource = EventSource()
    first_timestamp: datetime | None = None
    last_timestamp: datetime | None = None
    count: int = 0
    type: str = ""
    reporting_component: str = ""
    reporting_instance: str = ""
