"""What the engine's images are called."""

import msgspec

from vzkubelet.model.node import ContainerImage
from vzkubelet.sidecars import objects
from vzkubelet.sidecars.images import _named

LISTED = b"""[
  {"Id": "sha256:1", "Size": 7, "RepoTags": ["busybox:latest", "<none>:<none>"], "RepoDigests": ["busybox@sha256:%s"]},
  {"Id": "sha256:2", "Size": 8, "RepoTags": ["<none>:<none>"], "RepoDigests": ["<none>@<none>"]},
  {"Id": "sha256:3", "Size": 9, "RepoTags": null}
]""" % (b"a" * 64)


def test_names_are_in_full_and_an_image_without_any_has_none() -> None:
    named, *nameless = [_named(image) for image in msgspec.json.decode(LISTED, type=list[objects.Image])]
    digest = f"docker.io/library/busybox@sha256:{'a' * 64}"
    assert named == ContainerImage(names=[digest, "docker.io/library/busybox:latest"], size_bytes=7)
    assert [image.names for image in nameless] == [[], []]
