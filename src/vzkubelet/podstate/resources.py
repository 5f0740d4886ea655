"""Requests and limits of containers and pods as numbers, and what they make of a virtual machine."""

from dataclasses import dataclass

from vzkubelet.model import pod as api
from vzkubelet.model import quantity

DEFAULT_MACHINE_MEMORY_BYTES = 512 * 2**20
"""For a pod that asks for no memory: enough for a small Linux guest; macOS guests have a higher floor of their own."""


@dataclass(frozen=True, slots=True)
class Resources:
    """Parsed quantities of one container; 0 = not set."""

    cpu_request_milli: int = 0
    cpu_limit_milli: int = 0
    memory_request_bytes: int = 0
    memory_limit_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Requests:
    cpu_milli: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class MachineSize:
    cpus: int
    memory_bytes: int


def container_resources(container: api.Container) -> Resources:
    """Raises InvalidInput for a quantity that is none (the API server never lets one through)."""
    requests, limits = container.resources.requests or {}, container.resources.limits or {}
    return Resources(
        cpu_request_milli=quantity.to_milli(requests.get("cpu", limits.get("cpu", 0))),
        cpu_limit_milli=quantity.to_milli(limits.get("cpu", 0)),
        memory_request_bytes=quantity.to_int(requests.get("memory", limits.get("memory", 0))),
        memory_limit_bytes=quantity.to_int(limits.get("memory", 0)),
    )


def pod_requests(pod: api.Pod) -> Requests:
    """What the scheduler and admission count for a pod."""
    parsed = [container_resources(container) for container in pod.spec.containers]
    return Requests(sum(r.cpu_request_milli for r in parsed), sum(r.memory_request_bytes for r in parsed))


def machine_size(cpu_request_milli: int, memory_request_bytes: int, cpu_min: int, memory_min_bytes: int) -> MachineSize:
    """A machine for these requests: whole CPUs, rounded up, and never below the floors of image and hypervisor."""
    cpus = max(1, cpu_min, -(-cpu_request_milli // 1000))
    wanted_bytes = memory_request_bytes or DEFAULT_MACHINE_MEMORY_BYTES
    mebibyte = 2**20
    return MachineSize(cpus, max(-(-wanted_bytes // mebibyte) * mebibyte, memory_min_bytes))
