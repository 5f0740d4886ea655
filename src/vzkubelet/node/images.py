"""The images that a node's status lists, which the scheduler prefers nodes by (kubelet ``nodestatus.Images``). Pure."""

from collections.abc import Iterable

import msgspec

from vzkubelet.model.node import ContainerImage

NAMES_MAX = 5
"""MaxNamesPerImageInNodeStatus of the kubelet."""


def listed(images: Iterable[ContainerImage], limit: int) -> list[ContainerImage]:
    """The largest first, at most `limit` of them (-1 = all), each with few of its names: digests before tags, as given.

    The order depends on nothing but the images: each difference is a write of the whole status.
    """
    named = [image for image in images if image.names]
    ordered = sorted(named, key=lambda image: (-image.size_bytes, image.names))
    kept = ordered if limit < 0 else ordered[:limit]
    return [msgspec.structs.replace(image, names=(image.names or [])[:NAMES_MAX]) for image in kept]
