"""Images to a registry: pushed from files, or converted from what another format holds."""

from vzkubelet.images.push.pusher import Pusher
from vzkubelet.images.push.request import FORMATS, Listener, PushProgress, PushRequest, PushResult
from vzkubelet.images.push.sources import check_file

__all__ = ["FORMATS", "Listener", "PushProgress", "PushRequest", "PushResult", "Pusher", "check_file"]
