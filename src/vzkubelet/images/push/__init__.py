"""Images to a registry: pushed from files, or converted from what another format holds."""

from vzkubelet.images.push.pusher import Pusher, check_file
from vzkubelet.images.push.request import FORMATS, Listener, PushProgress, PushRequest, PushResult

__all__ = ["FORMATS", "Listener", "PushProgress", "PushRequest", "PushResult", "Pusher", "check_file"]
