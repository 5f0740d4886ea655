"""The interface between the double's VMs and what runs as their guests."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .description import GuestDescription, Nic, Share


@dataclass(frozen=True, slots=True)
class GuestFault:
    """An NSError to be; an empty text becomes Apple's own for that code."""

    code: int
    text: str = ""
    domain: str = "VZErrorDomain"


Done = Callable[[GuestFault | None], None]
"""Called exactly once per operation, from any thread, also within the call."""

Connected = Callable[[int | None, GuestFault | None], None]
"""A connected stream socket's descriptor, which the receiver owns from then on, or why there is none."""

Accept = Callable[[int, int], None]
"""A connection that the guest opened: its descriptor (owned by the receiver) and the guest's port."""


class GuestEvents(Protocol):
    """What happens to a guest by itself. Any thread, any time; holds no reference to the VM."""

    def guest_stopped(self) -> None: ...

    def stopped_with_error(self, fault: GuestFault) -> None: ...

    def network_disconnected(self, device: int, fault: GuestFault) -> None: ...


class Guest(Protocol):
    """One VM from `start` or `restore` until it stopped. Calls come from the VM's queue and return soon."""

    def start(self, done: Done) -> None: ...

    def pause(self, done: Done) -> None: ...

    def resume(self, done: Done) -> None: ...

    def stop(self, done: Done) -> None: ...

    def save(self, path: Path, done: Done) -> None:
        """Write the paused guest's state. The guest stays paused."""
        ...

    def restore(self, path: Path, done: Done) -> None:
        """Instead of `start`; the guest is paused afterwards."""
        ...

    def request_stop(self) -> GuestFault | None: ...

    def kill(self) -> None:
        """End at once. Any thread, in any state, also twice."""
        ...

    def share_changed(self, tag: str, share: Share | None) -> None: ...

    def network_changed(self, device: int, nic: Nic) -> None: ...

    def memory_target_changed(self, target_bytes: int) -> None: ...

    def connect(self, port: int, done: Connected) -> None: ...

    def listen(self, port: int, accept: Accept | None) -> None:
        """Guest-to-host connections of a vsock port; None = no longer."""
        ...


class Backing(Protocol):
    """All guests of this process."""

    def guest(self, description: GuestDescription, events: GuestEvents) -> Guest: ...
