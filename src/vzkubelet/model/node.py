"""Node (core/v1), as far as a node agent reads and writes it."""

from datetime import datetime

import msgspec

from vzkubelet.model.meta import Object, ObjectMeta


class Taint(Object, frozen=True):
    key: str
    value: str = ""
    effect: str = ""


class NodeSpec(Object, frozen=True):
    taints: list[Taint] | None = None
    unschedulable: bool = False
    provider_id: str = msgspec.field(default="", name="providerID")


class NodeAddress(Object, frozen=True):
    type: str
    """``InternalIP``, ``ExternalIP``, ``Hostname``, ``InternalDNS`` or ``ExternalDNS``."""
    address: str


class DaemonEndpoint(Object, frozen=True, omit_defaults=False):
    port: int = msgspec.field(default=0, name="Port")
    """Capitalised on the wire."""


class NodeDaemonEndpoints(Object, frozen=True):
    kubelet_endpoint: DaemonEndpoint = DaemonEndpoint()


class NodeSystemInfo(Object, frozen=True, omit_defaults=False):
    """All required on the wire."""

    machine_id: str = msgspec.field(default="", name="machineID")
    system_uuid: str = msgspec.field(default="", name="systemUUID")
    boot_id: str = msgspec.field(default="", name="bootID")
    kernel_version: str = ""
    os_image: str = ""
    container_runtime_version: str = ""
    kubelet_version: str = ""
    kube_proxy_version: str = ""
    operating_system: str = ""
    architecture: str = ""


class NodeCondition(Object, frozen=True):
    type: str
    status: str
    last_heartbeat_time: datetime | None = None
    last_transition_time: datetime | None = None
    reason: str = ""
    message: str = ""


class ContainerImage(Object, frozen=True):
    names: list[str] | None = None
    size_bytes: int = 0


class NodeStatus(Object, frozen=True):
    """Quantities as text or number, as the API server gives them."""

    capacity: dict[str, str | int | float] | None = None
    allocatable: dict[str, str | int | float] | None = None
    conditions: list[NodeCondition] | None = None
    addresses: list[NodeAddress] | None = None
    daemon_endpoints: NodeDaemonEndpoints = NodeDaemonEndpoints()
    node_info: NodeSystemInfo = NodeSystemInfo()
    images: list[ContainerImage] | None = None
    declared_features: list[str] | None = None


class Node(Object, frozen=True):
    api_version: str = "v1"
    kind: str = "Node"
    metadata: ObjectMeta = ObjectMeta()
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()
