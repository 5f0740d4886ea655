"""Pods and records for the tests of the pod rules."""

from collections.abc import Mapping

from vzkubelet.model import meta, timestamp
from vzkubelet.model import pod as api
from vzkubelet.podstate import record

NOW = 1_700_000_000.0


def pod(
    *names: str,
    policy: str = "Always",
    deleted_at: float | None = None,
    grace_s: int = 30,
    deadline_s: int | None = None,
) -> api.Pod:
    metadata = meta.ObjectMeta(
        name="p",
        namespace="ns",
        uid="u-1",
        generation=1,
        deletion_timestamp=None if deleted_at is None else timestamp.from_epoch(deleted_at),
        deletion_grace_period_seconds=None if deleted_at is None else grace_s,
    )
    containers = [api.Container(name=name, image=f"image-of-{name}") for name in names or ("vm",)]
    spec = api.PodSpec(containers=containers, restart_policy=policy, active_deadline_seconds=deadline_s)
    return api.Pod(metadata=metadata, spec=spec)


def known(
    of: api.Pod,
    ip: str = "10.0.0.2",
    volumes_ready: bool = True,
    states: Mapping[str, record.State] | None = None,
    **named: record.State,
) -> record.Pod:
    given = {**(states or {}), **named}
    containers = tuple(
        record.Container(c.name, c.image, state=given.get(c.name, record.Waiting())) for c in of.spec.containers
    )
    return record.Pod("ns", "p", "u-1", containers, start_time=NOW, ip=ip, volumes_ready=volumes_ready)


def ended(code: int, at: float = NOW) -> record.Terminated:
    return record.Terminated(code, "Completed" if code == 0 else "Error", started_at=at - 1, finished_at=at)
