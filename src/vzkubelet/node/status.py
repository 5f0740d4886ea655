"""The node's status from facts: pure, time is an argument (kubelet ``nodestatus/setters.go``).

What is decided here:
- The version the node reports is `KUBELET_LEVEL`, the kubelet whose API and semantics it offers, with this package's
  own version behind a dash, as cloud providers write theirs: the control plane reads the first part for its skew rules.
- Operating system and architecture are the host's. Pods for a Mac select ``kubernetes.io/os: darwin``; what guests run
  is up to their images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from vzkubelet import __version__
from vzkubelet.errors import MACHINE_LIMIT_REASON
from vzkubelet.model import quantity
from vzkubelet.model.node import (
    ContainerImage,
    DaemonEndpoint,
    Node,
    NodeAddress,
    NodeCondition,
    NodeDaemonEndpoints,
    NodeStatus,
    NodeSystemInfo,
)
from vzkubelet.model.timestamp import from_epoch
from vzkubelet.node.facts import Readings
from vzkubelet.node.identity import DEFAULT_MAX_PODS, Identity

KUBELET_LEVEL = "v1.36.3"
"""The kubelet release that behaviour is checked against. A control plane supports kubelets up to three minor versions
older than itself, so this moves with the feature set, not with the calendar."""
KUBELET_VERSION = f"{KUBELET_LEVEL}-vz.{__version__}"
MEMORY_PRESSURE_BYTES = 100 << 20
DISK_PRESSURE_SHARE = 0.10
INODE_PRESSURE_SHARE = 0.05
"""evictionHard of the kubelet: memory.available<100Mi, nodefs.available<10%, nodefs.inodesFree<5%; none for PIDs."""
PRESSURE_TRANSITION_S = 300.0
"""evictionPressureTransitionPeriod: a pressure is reported for this long after it was last seen."""

_OWNED_CONDITIONS = ("MemoryPressure", "DiskPressure", "PIDPressure", MACHINE_LIMIT_REASON, "Ready")
"""In the order they are written: Ready last (kubernetes#16961)."""


DECLARED_FEATURES = ("ExtendWebSocketsToKubelet",)
"""Lets an API server from 1.36 on pass a client's WebSocket through to us. Where it translates to SPDY itself it closes
towards a slow reader as soon as the command ends, and the client's next ping costs that reader what it has not read."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What a condition says, without its times."""

    type: str
    status: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Pressure:
    """Until when each pressure is reported, seconds since the epoch; 0 = never seen."""

    memory_until: float = 0.0
    disk_until: float = 0.0


def pressure(readings: Readings, before: Pressure, now: float) -> Pressure:
    """The pressures after these readings."""
    disk = readings.disk
    short_of_memory = readings.memory_available_bytes < MEMORY_PRESSURE_BYTES
    short_of_disk = disk.available_bytes < disk.capacity_bytes * DISK_PRESSURE_SHARE
    short_of_inodes = disk.inodes > 0 and disk.inodes_free < disk.inodes * INODE_PRESSURE_SHARE  # APFS, btrfs: no limit
    until = now + PRESSURE_TRANSITION_S
    return Pressure(
        memory_until=until if short_of_memory else before.memory_until,
        disk_until=until if short_of_disk or short_of_inodes else before.disk_until,
    )


def conditions(under: Pressure, faults: Sequence[str], now: float, limit: str | None = None) -> list[Condition]:
    """The node's own conditions, Ready last. `faults` are reasons why no pod can be run, for people.

    `limit` tells why the hypervisor runs no further machine; empty when it does, None when it knows no such limit.
    """
    if under.memory_until > now:
        memory = ("True", "KubeletHasInsufficientMemory", "kubelet has insufficient memory available")
    else:
        memory = ("False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available")
    if under.disk_until > now:
        disk = ("True", "KubeletHasDiskPressure", "kubelet has disk pressure")
    else:
        disk = ("False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure")
    pids = ("False", "KubeletHasSufficientPID", "kubelet has sufficient PID available")
    if not faults:
        ready = ("True", "KubeletReady", "kubelet is posting ready status")
    else:
        # The form of apimachinery's errors.Aggregate.
        ready = ("False", "KubeletNotReady", faults[0] if len(faults) == 1 else f"[{', '.join(faults)}]")
    said = {"MemoryPressure": memory, "DiskPressure": disk, "PIDPressure": pids, "Ready": ready}
    if limit is not None:
        said[MACHINE_LIMIT_REASON] = (
            ("True", "VirtualMachineLimitReached", limit)
            if limit
            else ("False", "VirtualMachinesAvailable", "the hypervisor has refused no virtual machine")
        )
    return [Condition(name, *said[name]) for name in _OWNED_CONDITIONS if name in said]


def compute(
    identity: Identity,
    readings: Readings,
    wanted: Sequence[Condition],
    before: NodeStatus,
    now: float,
    images: Sequence[ContainerImage] | None = None,
) -> NodeStatus:
    """The whole status. What others wrote into `before`, the API server's, is kept: conditions (put ahead of Ready) and
    extended resources; and the images where None are known.
    """
    host = identity.host
    capacity: dict[str, str | int | float] = {
        "cpu": _cpu(identity.cpu_milli if identity.cpu_milli is not None else host.cpus * 1000),
        "memory": _bytes(identity.memory_bytes if identity.memory_bytes is not None else host.memory_bytes),
        "pods": str(identity.max_pods if identity.max_pods is not None else DEFAULT_MAX_PODS),
        "ephemeral-storage": _bytes(readings.disk.capacity_bytes),
    }
    moment = from_epoch(now)
    return NodeStatus(
        capacity={**(before.capacity or {}), **capacity},
        allocatable={**(before.allocatable or {}), **capacity},  # nothing is reserved for the system yet
        conditions=_timed(wanted, before.conditions or [], moment),
        addresses=[NodeAddress("InternalIP", identity.address), NodeAddress("Hostname", identity.name)],
        daemon_endpoints=NodeDaemonEndpoints(DaemonEndpoint(identity.port)),
        node_info=NodeSystemInfo(
            machine_id=host.machine_id,
            system_uuid=host.system_uuid,
            boot_id=host.boot_id,
            kernel_version=host.kernel_version,
            os_image=host.os_image,
            container_runtime_version=identity.runtime_version,
            kubelet_version=KUBELET_VERSION,
            operating_system=host.operating_system,
            architecture=host.architecture,
        ),
        images=before.images if images is None else list(images),
        declared_features=list(DECLARED_FEATURES),
    )


def has_changed(before: NodeStatus, after: NodeStatus) -> bool:
    """Whether anything but heartbeat times differs. Quantities are compared by value: the API server rewrites them.

    Declared features are not compared: an API server that does not know the field drops it each time.
    """
    return _comparable(before) != _comparable(after)


def patch(before: Node, status: NodeStatus, wanted_labels: Mapping[str, str]) -> dict[str, Any]:
    """A strategic merge patch of nodes/status that makes `before` carry `status` and `wanted_labels`.

    Addresses are replaced whole, since their merge key, the type, is not unique (component-helpers ``node/util``).
    """
    new: dict[str, Any] = msgspec.to_builtins(status)
    new["addresses"] = [*new.get("addresses", []), {"$patch": "replace"}]
    new["$setElementOrder/conditions"] = [{"type": condition.type} for condition in status.conditions or []]
    owned = [condition for condition in status.conditions or [] if condition.type in _OWNED_CONDITIONS]
    new["conditions"] = [{"reason": "", "message": "", **msgspec.to_builtins(condition)} for condition in owned]
    body: dict[str, Any] = {"status": new}
    known = before.metadata.labels or {}
    missing = {key: value for key, value in wanted_labels.items() if known.get(key) != value}
    if missing:
        body["metadata"] = {"labels": missing}
    return body


def find(conditions_: Sequence[NodeCondition] | None, type_: str) -> NodeCondition | None:
    return next((condition for condition in conditions_ or () if condition.type == type_), None)


def _timed(wanted: Sequence[Condition], before: Sequence[NodeCondition], now: datetime) -> list[NodeCondition]:
    timed = []
    for condition in wanted:
        known = find(before, condition.type)
        same = known is not None and known.status == condition.status
        timed.append(
            NodeCondition(
                type=condition.type,
                status=condition.status,
                last_heartbeat_time=now,
                last_transition_time=known.last_transition_time if known and same else now,
                reason=condition.reason,
                message=condition.message,
            )
        )
    told = {condition.type for condition in wanted}
    others = [condition for condition in before if condition.type not in told]
    return [*timed[:-1], *others, timed[-1]]


def _comparable(status: NodeStatus) -> dict[str, Any]:
    compared: dict[str, Any] = {
        "conditions": sorted(
            (c.type, c.status, c.reason, c.message, c.last_transition_time) for c in status.conditions or ()
        ),
        "addresses": status.addresses,
        "daemon_endpoints": status.daemon_endpoints,
        "node_info": status.node_info,
        "images": status.images or None,
    }
    for name in ("capacity", "allocatable"):
        resources = getattr(status, name) or {}
        compared[name] = {resource: quantity.parse(amount) for resource, amount in resources.items()}
    return compared


def _cpu(milli: int) -> str:
    return str(milli // 1000) if milli % 1000 == 0 else f"{milli}m"


def _bytes(size_bytes: int) -> str:
    """In Ki, as the kubelet writes memory and storage."""
    return f"{size_bytes // 1024}Ki"
