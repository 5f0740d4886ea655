"""What a pod worker is given: the ports, and the few facts about the node that pods may ask for."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from vzkubelet import ports
from vzkubelet.aio import Clock
from vzkubelet.model import pod as api


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """Of the node, for the downward API and the pod status."""

    ip: str
    allocatable_cpu_milli: int
    allocatable_memory_bytes: int


@dataclass(frozen=True, slots=True)
class World:
    machines: ports.ContainerRuntime
    sidecars: ports.ContainerRuntime
    """Raises Unavailable at each call while no Docker engine answers: pods with one container never call it."""
    volumes: ports.Volumes
    objects: ports.Objects
    recorder: ports.Recorder
    api_server: ports.PodStatusWriter
    clock: Clock
    node: Callable[[], NodeFacts]
    image_access: ports.ImageAccess
    pull_slots: asyncio.Semaphore | None = None
    """How many images of machines are pulled at the same time; None = as many as are wanted."""

    def runtime_of(self, pod: api.Pod, container: str) -> ports.ContainerRuntime:
        """The first container is a machine, all others are side-cars."""
        return self.machines if pod.spec.containers[0].name == container else self.sidecars
