"""What a node says of itself when it joins: name, address, labels, taints, size."""

from collections.abc import Mapping
from dataclasses import dataclass

from vzkubelet.config import NodeSettings
from vzkubelet.errors import InvalidInput, clip
from vzkubelet.model.meta import ObjectMeta
from vzkubelet.model.node import Node, NodeSpec, NodeStatus, Taint
from vzkubelet.node.facts import Host

USER_PREFIX = "system:node:"
DEFAULT_MAX_PODS = 110
"""maxPods of the kubelet."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What the daemon knows about its node from the start."""

    name: str
    address: str
    """InternalIP."""
    port: int
    """Of the kubelet API."""
    runtime_version: str
    """``name://version`` of what runs the machines."""
    host: Host
    taints: tuple[Taint, ...] = ()
    labels: Mapping[str, str] | None = None
    """Beyond the default ones."""
    cpu_milli: int | None = None
    memory_bytes: int | None = None
    max_pods: int | None = None
    """None = the host's figures, and `DEFAULT_MAX_PODS`."""


def from_settings(
    settings: NodeSettings,
    host: Host,
    *,
    address: str,
    port: int,
    runtime_version: str,
    slots: int | None = None,
) -> Identity:
    """`address` stands in where the settings name none, and so does `slots`, of the hypervisor, for the pods."""
    return Identity(
        name=settings.name,
        address=settings.ip or address,
        port=port,
        runtime_version=runtime_version,
        host=host,
        taints=tuple(Taint(key=taint.key, value=taint.value, effect=taint.effect) for taint in settings.taints),
        cpu_milli=settings.cpu_milli,
        memory_bytes=settings.memory_bytes,
        max_pods=settings.max_pods if settings.max_pods is not None else slots,
    )


def require_own_user(user: str, name: str) -> None:
    """Check that the API server takes us for the node that we are to be.

    Raises:
        InvalidInput: it does not, and NodeRestriction would refuse whatever the agent does.
    """
    if user == USER_PREFIX + name:
        return
    if user.startswith(USER_PREFIX):
        other = user.removeprefix(USER_PREFIX)
        way_out = f"start with --nodename {other}, or give this node its own"
    else:
        way_out = "get a node credential through a bootstrap token and a certificate signing request"
    raise InvalidInput(
        f'the kubeconfig is for user "{clip(user)}", but node {name} is "{USER_PREFIX}{name}"; {way_out}'
    )


def labels(identity: Identity) -> dict[str, str]:
    """What the node is labelled with: the kubelet's default labels, and those that were asked for."""
    host = identity.host
    return {
        **(identity.labels or {}),
        "kubernetes.io/hostname": identity.name,
        "kubernetes.io/os": host.operating_system,
        "kubernetes.io/arch": host.architecture,
        "beta.kubernetes.io/os": host.operating_system,
        "beta.kubernetes.io/arch": host.architecture,
    }


def initial_node(identity: Identity, status: NodeStatus) -> Node:
    """The node as it is created: NodeRestriction lets a node set its taints only then."""
    return Node(
        metadata=ObjectMeta(name=identity.name, labels=labels(identity)),
        spec=NodeSpec(taints=list(identity.taints) or None),
        status=status,
    )
