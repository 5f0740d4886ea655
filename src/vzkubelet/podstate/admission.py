"""Whether the node takes a pod (kubelet ``lifecycle/predicate.go``), with the kubelet's reasons and messages."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from vzkubelet.model import pod as api
from vzkubelet.podstate import resources
from vzkubelet.podstate.record import Rejection


@dataclass(frozen=True, slots=True)
class Node:
    """The node as admission sees it: allocatable, labels and taints."""

    name: str
    operating_system: str
    cpu_milli: int
    memory_bytes: int
    pods: int
    labels: dict[str, str]
    machine_cpu_max: int
    machine_memory_max_bytes: int
    macos_guests: int | None = None
    """macOS guests that may run at once, None = as many as there is room for."""
    guest_os: Callable[[str], str] = lambda _: ""
    """System of an image by its reference, ``darwin`` or ``linux``; empty while the image is not on this host. A pod of
    an unknown image is taken: should its guest turn out to be one too many, it waits for a slot."""


def reject(pod: api.Pod, node: Node, others: Iterable[api.Pod]) -> Rejection | None:
    """The first reason against the pod; `others` are the admitted pods that have not ended."""
    rejection = _rejected(pod, node, tuple(others))
    if rejection is None:
        return None
    return Rejection(rejection.reason, "Pod was rejected: " + rejection.message)


def _rejected(pod: api.Pod, node: Node, others: tuple[api.Pod, ...]) -> Rejection | None:
    if pod.spec.os is not None and pod.spec.os.name and pod.spec.os.name != node.operating_system:
        return Rejection("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS")
    for key, value in (pod.spec.node_selector or {}).items():
        if node.labels.get(key) != value:
            return Rejection(
                "NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"
            )
    return _unsupported(pod) or _too_big(pod, node, others)


def _unsupported(pod: api.Pod) -> Rejection | None:
    if pod.spec.init_containers:
        return Rejection(
            "PodFeatureUnsupported",
            "init containers are not supported by this node: put their work into the first container's image",
        )
    if pod.spec.host_network:
        return Rejection(
            "PodFeatureUnsupported",
            "hostNetwork is not supported by this node: a virtual machine has a network of its own",
        )
    return None


def _too_big(pod: api.Pod, node: Node, others: tuple[api.Pod, ...]) -> Rejection | None:
    if len(others) + 1 > node.pods:
        return _out_of("OutOfpods", "pods", 1, len(others), node.pods)
    if node.macos_guests is not None and _is_macos(pod, node):
        running = sum(_is_macos(other, node) for other in others)
        if running + 1 > node.macos_guests:
            return _out_of("OutOfpods", "pods", 1, running, node.macos_guests)
    wanted = resources.pod_requests(pod)
    used = [resources.pod_requests(other) for other in others]
    used_cpu, used_memory = sum(r.cpu_milli for r in used), sum(r.memory_bytes for r in used)
    if wanted.cpu_milli and wanted.cpu_milli + used_cpu > node.cpu_milli:
        return _out_of("OutOfcpu", "cpu", wanted.cpu_milli, used_cpu, node.cpu_milli)
    if wanted.memory_bytes and wanted.memory_bytes + used_memory > node.memory_bytes:
        return _out_of("OutOfmemory", "memory", wanted.memory_bytes, used_memory, node.memory_bytes)
    machine = resources.container_resources(pod.spec.containers[0])
    if -(-machine.cpu_request_milli // 1000) > node.machine_cpu_max:
        return _out_of("OutOfcpu", "cpu", machine.cpu_request_milli, 0, node.machine_cpu_max * 1000)
    if machine.memory_request_bytes > node.machine_memory_max_bytes:
        return _out_of("OutOfmemory", "memory", machine.memory_request_bytes, 0, node.machine_memory_max_bytes)
    return None


def _is_macos(pod: api.Pod, node: Node) -> bool:
    return node.guest_os(pod.spec.containers[0].image) == "darwin"


def _out_of(reason: str, resource: str, requested: int, used: int, capacity: int) -> Rejection:
    message = (
        f"Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
    )
    return Rejection(reason, message)


def ignored(pod: api.Pod) -> list[str]:
    """What the pod asks for and this version does not act on, for people: better told once than noticed late."""
    fields = []
    for container in pod.spec.containers:
        asked = {
            "livenessProbe": container.liveness_probe,
            "readinessProbe": container.readiness_probe,
            "startupProbe": container.startup_probe,
            "lifecycle": container.lifecycle,
        }
        fields += [f"{name} of container {container.name}" for name, value in asked.items() if value is not None]
    return fields
