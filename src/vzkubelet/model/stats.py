"""Summary API of the kubelet (stats.k8s.io/v1alpha1): what ``/stats/summary`` answers.

Counters are cumulative since `start_time` of what they belong to; None = not known, which is never written as 0.
Source: k8s.io/kubelet pkg/apis/stats/v1alpha1/types.go.
"""

from datetime import datetime

import msgspec

from vzkubelet.model.meta import Object


class CPUStats(Object, frozen=True):
    time: datetime
    usage_nano_cores: int | None = None
    """Core-nanoseconds per second, over the sample window."""
    usage_core_nano_seconds: int | None = None


class MemoryStats(Object, frozen=True):
    time: datetime
    available_bytes: int | None = None
    usage_bytes: int | None = None
    working_set_bytes: int | None = None
    rss_bytes: int | None = None
    page_faults: int | None = None
    major_page_faults: int | None = None


class FsStats(Object, frozen=True):
    time: datetime
    available_bytes: int | None = None
    capacity_bytes: int | None = None
    used_bytes: int | None = None
    inodes_free: int | None = None
    inodes: int | None = None
    inodes_used: int | None = None


class VolumeStats(Object, frozen=True):
    """An FsStats with the volume's name."""

    time: datetime
    name: str
    available_bytes: int | None = None
    capacity_bytes: int | None = None
    used_bytes: int | None = None
    inodes_free: int | None = None
    inodes: int | None = None
    inodes_used: int | None = None


class InterfaceStats(Object, frozen=True):
    name: str
    rx_bytes: int | None = None
    rx_errors: int | None = None
    tx_bytes: int | None = None
    tx_errors: int | None = None


class NetworkStats(Object, frozen=True):
    """Figures of the default interface inline, then of all."""

    time: datetime
    name: str
    rx_bytes: int | None = None
    rx_errors: int | None = None
    tx_bytes: int | None = None
    tx_errors: int | None = None
    interfaces: list[InterfaceStats] | None = None


class SwapStats(Object, frozen=True):
    time: datetime
    swap_available_bytes: int | None = None
    swap_usage_bytes: int | None = None


class RlimitStats(Object, frozen=True):
    time: datetime
    max_pid: int | None = msgspec.field(default=None, name="maxpid")
    running_processes: int | None = msgspec.field(default=None, name="curproc")


class ProcessStats(Object, frozen=True):
    process_count: int | None = msgspec.field(default=None, name="process_count")


class RuntimeStats(Object, frozen=True):
    image_fs: FsStats | None = None
    container_fs: FsStats | None = None


class ContainerStats(Object, frozen=True):
    name: str
    start_time: datetime
    cpu: CPUStats | None = None
    memory: MemoryStats | None = None
    rootfs: FsStats | None = None
    logs: FsStats | None = None
    swap: SwapStats | None = None


class PodReference(Object, frozen=True):
    name: str
    namespace: str
    uid: str


class PodStats(Object, frozen=True):
    pod_ref: PodReference
    start_time: datetime
    containers: list[ContainerStats]
    cpu: CPUStats | None = None
    memory: MemoryStats | None = None
    network: NetworkStats | None = None
    volume: list[VolumeStats] | None = None
    ephemeral_storage: FsStats | None = msgspec.field(default=None, name="ephemeral-storage")
    process_stats: ProcessStats | None = msgspec.field(default=None, name="process_stats")
    swap: SwapStats | None = None


class NodeStats(Object, frozen=True):
    node_name: str
    start_time: datetime
    system_containers: list[ContainerStats] | None = None
    cpu: CPUStats | None = None
    memory: MemoryStats | None = None
    network: NetworkStats | None = None
    fs: FsStats | None = None
    runtime: RuntimeStats | None = None
    rlimit: RlimitStats | None = None
    swap: SwapStats | None = None


class Summary(Object, frozen=True):
    node: NodeStats
    pods: list[PodStats]


def only_cpu_and_memory(summary: Summary) -> Summary:
    """What ``?only_cpu_and_memory=true`` asks for."""
    node = summary.node
    return Summary(
        node=NodeStats(
            node_name=node.node_name,
            start_time=node.start_time,
            system_containers=[_slim(container) for container in node.system_containers or ()] or None,
            cpu=node.cpu,
            memory=node.memory,
        ),
        pods=[
            PodStats(
                pod_ref=pod.pod_ref,
                start_time=pod.start_time,
                containers=[_slim(container) for container in pod.containers],
                cpu=pod.cpu,
                memory=pod.memory,
            )
            for pod in summary.pods
        ],
    )


def _slim(container: ContainerStats) -> ContainerStats:
    return ContainerStats(
        name=container.name, start_time=container.start_time, cpu=container.cpu, memory=container.memory
    )
