"""Lease (coordination.k8s.io/v1): the heartbeat of a node."""

from vzkubelet.model.meta import Object, ObjectMeta


class LeaseSpec(Object, frozen=True):
    """`renew_time` is a MicroTime and kept as text, which `timestamp.micro_time` writes with all six digits."""

    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    renew_time: str | None = None


class Lease(Object, frozen=True):
    api_version: str = "coordination.k8s.io/v1"
    kind: str = "Lease"
    metadata: ObjectMeta = ObjectMeta()
    spec: LeaseSpec = LeaseSpec()
