"""What the pod worker needs of the world, as protocols with their obligations.

An implementation of a port passes the suite of that port in ``tests/conformance/``, whatever it runs on. Obligations
that hold for every method here:

- Errors are those of `vzkubelet.errors`, nothing else.
- Cancelling an awaited call leaves nothing half made: either it had no effect or a repeated call completes it.
- Names are stable over a restart of the daemon: what was started under a pod UID is found again under it.
- `close()` lets go without stopping anything that runs.
"""

from vzkubelet.model.docker_config import RegistryCredential
from vzkubelet.model.logs import LogEntry, LogOptions, OutputStream
from vzkubelet.ports.containers import (
    ContainerMount,
    ContainerPhase,
    ContainerResources,
    ContainerRuntime,
    ContainerSecurity,
    ContainerSpec,
    ContainerState,
    ContainerUsage,
)
from vzkubelet.ports.guests import Guest, GuestMount, GuestProcess, Guests, GuestUsage, OutputLog
from vzkubelet.ports.image_access import ImageAccess, ImageKind, PullRecording, WantedImage
from vzkubelet.ports.images import Image, ImageDefaults, MachineImage, MachineImages, PullProgress
from vzkubelet.ports.machines import (
    GuestAddress,
    HostNetwork,
    MachineDriver,
    MachineLimits,
    MachinePhase,
    MachineSpec,
    MachineStatus,
    MachineUsage,
    Share,
)
from vzkubelet.ports.objects import Objects, Volumes
from vzkubelet.ports.reporting import EventType, PodStatusWriter, Recorder
from vzkubelet.ports.streams import ExecRequest, ExitStatus, Streams, TerminalSize

__all__ = [
    "ContainerMount",
    "ContainerPhase",
    "ContainerResources",
    "ContainerRuntime",
    "ContainerSecurity",
    "ContainerSpec",
    "ContainerState",
    "ContainerUsage",
    "EventType",
    "ExecRequest",
    "ExitStatus",
    "Guest",
    "GuestAddress",
    "GuestMount",
    "GuestProcess",
    "GuestUsage",
    "Guests",
    "HostNetwork",
    "Image",
    "ImageAccess",
    "ImageDefaults",
    "ImageKind",
    "LogEntry",
    "LogOptions",
    "MachineDriver",
    "MachineImage",
    "MachineImages",
    "MachineLimits",
    "MachinePhase",
    "MachineSpec",
    "MachineStatus",
    "MachineUsage",
    "Objects",
    "OutputLog",
    "OutputStream",
    "PodStatusWriter",
    "PullProgress",
    "PullRecording",
    "Recorder",
    "RegistryCredential",
    "Share",
    "Streams",
    "TerminalSize",
    "Volumes",
    "WantedImage",
]
