"""Who may use which image of this host."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from vzkubelet.model.docker_config import Candidate
from vzkubelet.model.reference import Reference


class ImageKind(StrEnum):
    """Whose images these are: one reference may lead to a machine and to a side-car."""

    MACHINE = "machine"
    SIDECAR = "sidecar"


@dataclass(frozen=True, slots=True)
class WantedImage:
    """An image that a container of a pod wants."""

    text: str
    """As in the pod's spec."""
    reference: Reference
    kind: ImageKind


class PullRecording(Protocol):
    """One pull that is under way."""

    async def succeeded(self, image_id: str, used: Candidate | None) -> None:
        """The image is here; `used` opened it, None = no login was needed. Call it before anybody uses the image."""


class ImageAccess(Protocol):
    """The node's own logins, and the memory of which logins opened which image (the kubelet's image pull manager).

    - `node_candidates` are logins that every pod of the node may use. Never fails: what gives none is logged.
    - `may_use` says whether a pod may use an image that is here without proving at the registry that it may pull it.
      `own` gives the logins of the pod for the image; it is called when they matter and its errors come through. No
      request to any registry.
    - `pulling` is held around a pull. Until `succeeded` is called, and for ever when the process dies before, the
      image that lies under that name opens to those alone who prove that they may pull it.
    """

    async def node_candidates(self, image: Reference) -> Sequence[Candidate]: ...

    async def may_use(
        self, wanted: WantedImage, image_id: str, own: Callable[[], Awaitable[Sequence[Candidate]]]
    ) -> bool: ...

    def pulling(self, wanted: WantedImage) -> AbstractAsyncContextManager[PullRecording]: ...
