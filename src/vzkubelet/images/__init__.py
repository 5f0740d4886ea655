"""Virtual machine images: registries, formats, the content store, pull and push.

`Library` is the port's implementation, `Pusher` the way back, `Upkeep` keeps what is stored sound and within bounds.
Everything else is inside.
"""

from vzkubelet.images.collection import Collection, Rules
from vzkubelet.images.findings import Finding, Verification
from vzkubelet.images.formats import Machine
from vzkubelet.images.library import Library
from vzkubelet.images.platforms import host_platforms
from vzkubelet.images.push import Pusher, PushProgress, PushRequest, PushResult
from vzkubelet.images.upkeep import Upkeep
from vzkubelet.images.usage import ImageUsage

__all__ = [
    "Collection",
    "Finding",
    "ImageUsage",
    "Library",
    "Machine",
    "PushProgress",
    "PushRequest",
    "PushResult",
    "Pusher",
    "Rules",
    "Upkeep",
    "Verification",
    "host_platforms",
]
