"""Tells of a running container that loses its network, or has it again: an event of its pod, and its readiness.

The container runs on, as it would under the kubelet: its work is not lost, and the network may come back.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from vzkubelet import errors, ports
from vzkubelet.model.identity import PodRef
from vzkubelet.podstate import events, record
from vzkubelet.ports import EventType

_log = logging.getLogger(__name__)
RETRY_S = 5.0
LOST = "NetworkUnavailable"
BACK = "NetworkAvailable"


@dataclass(frozen=True, slots=True)
class NetworkWatch:
    recorder: ports.Recorder
    runtime: ports.ContainerRuntime
    pod: PodRef
    post: Callable[[events.Event], None]

    async def run(self, container: record.Container) -> None:
        """Until nothing more will be told; begins with what `container` says, which was told already."""
        known = container.network_fault
        while True:
            try:
                fault = await self.runtime.network_change(self.pod, container.name, known)
            except errors.NotFound:
                return
            except errors.Error as exc:
                _log.warning("pod %s: the network of %s is not watched: %s", self.pod.key, container.name, exc)
                await asyncio.sleep(RETRY_S)
                continue
            if fault is None:
                return
            self._tell(container, fault)
            known = fault

    def _tell(self, container: record.Container, fault: str) -> None:
        if fault:
            text = f"The network of the virtual machine is gone: {fault}"
            self.recorder.pod_event(self.pod, EventType.WARNING, LOST, text, container.name)
        else:
            text = "The network of the virtual machine is back"
            self.recorder.pod_event(self.pod, EventType.NORMAL, BACK, text, container.name)
        self.post(events.NetworkChanged(container.name, container.attempt, fault))
