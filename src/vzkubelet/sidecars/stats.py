"""CPU, memory and disk of a container, from one sample of the engine."""

import time

from vzkubelet import errors
from vzkubelet.ports import ContainerUsage
from vzkubelet.sidecars import objects
from vzkubelet.sidecars.engine import Engine

DISK_SAMPLE_MAX_AGE_S = 60.0
"""The engine walks the writable layer for its size; the kubelet too looks at disks once a minute."""


class UsageReader:
    """Remembers the size of writable layers for a while; everything else is read each time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._disks: dict[str, tuple[float, int]] = {}

    async def read(self, container_id: str) -> ContainerUsage:
        """Raises Unavailable when the engine has no figures (it is starting, or has just ended)."""
        params = {"stream": "false", "one-shot": "true"}
        stats = await self._engine.get(f"containers/{container_id}/stats", objects.Stats, **params)
        cpu_ns = stats.cpu_stats.cpu_usage.total_usage
        memory_bytes = working_set(stats.memory_stats)
        if cpu_ns <= 0 or memory_bytes <= 0:
            raise errors.Unavailable(f"the Docker engine has no figures of container {container_id[:12]}")
        return ContainerUsage(cpu_ns, memory_bytes, await self._disk_bytes(container_id), time.time())

    def forget(self, container_id: str) -> None:
        self._disks.pop(container_id, None)

    async def _disk_bytes(self, container_id: str) -> int:
        now = time.monotonic()
        sampled_at, size_bytes = self._disks.get(container_id, (-DISK_SAMPLE_MAX_AGE_S, 0))
        if now - sampled_at >= DISK_SAMPLE_MAX_AGE_S:
            found = await self._engine.get(f"containers/{container_id}/json", objects.Container, size="true")
            size_bytes = found.size_rw or 0
            self._disks[container_id] = (now, size_bytes)
        return size_bytes


def working_set(memory: objects.MemoryStats) -> int:
    """Usage without the page cache that can go at once; cgroup v1 and v2 name that part differently."""
    parts = memory.stats or {}
    inactive_bytes = parts.get("total_inactive_file", parts.get("inactive_file", 0))
    return max(memory.usage - inactive_bytes, 0)
