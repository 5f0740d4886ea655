"""Virtual machine images: registries, formats, the content store, pull and push.

`Library` is the port's implementation, `Pusher` the way back. Everything else is inside.
"""

from vzkubelet.images.formats import Machine
from vzkubelet.images.library import Library, Listing
from vzkubelet.images.platforms import host_platforms
from vzkubelet.images.push import Pusher, PushProgress, PushRequest, PushResult

__all__ = ["Library", "Listing", "Machine", "PushProgress", "PushRequest", "PushResult", "Pusher", "host_platforms"]
