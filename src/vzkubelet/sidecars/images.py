"""Container images on the engine: finding and pulling them, with the kubelet's reasons for what goes wrong."""

import base64
from collections.abc import Sequence

import msgspec

from vzkubelet import errors
from vzkubelet.model import reference as references
from vzkubelet.model.node import ContainerImage
from vzkubelet.model.reference import Reference
from vzkubelet.ports import Image, RegistryCredential
from vzkubelet.sidecars import objects
from vzkubelet.sidecars.engine import Engine

REASON = "ErrImagePull"

_FAULTS: tuple[tuple[type[errors.Error], tuple[str, ...]], ...] = (
    (errors.InvalidInput, ("unsupported media type", "unknown media type", "invalid rootfs", "not supported for")),
    (
        errors.Unauthenticated,
        ("unauthorized", "authentication required", "no basic auth credentials", "incorrect user"),
    ),
    (errors.Forbidden, ("access denied", "access to the resource is denied", "denied:", "forbidden")),
    (errors.NotFound, ("manifest unknown", "name unknown", "not found", "no matching manifest")),
    (errors.Integrity, ("filesystem layer verification failed", "failed precondition: unexpected commit digest")),
    (errors.Exhausted, ("no space left on device",)),
)
"""What Docker's texts mean; its HTTP status is 500 or 200 for most of them. The first that fits counts."""


async def find(engine: Engine, text: str) -> Image | None:
    """The image if the engine has it; no registry is asked.

    Raises:
        InvalidInput: reason InvalidImageName.
    """
    reference = references.parse(text)
    try:
        found = await engine.get(f"images/{reference}/json", objects.Image)
    except errors.NotFound:
        return None
    return Image(text, image_id(found, reference), found.size)


async def listed(engine: Engine) -> list[ContainerImage]:
    """All images with a name, digests first and names in full, as a node's status has them."""
    found = await engine.get("images/json", list[objects.Image])
    return [image for image in map(_named, found) if image.names]


async def pull(engine: Engine, text: str, credentials: Sequence[RegistryCredential]) -> Image:
    """Pull with each login in turn until one works; without any, anonymously.

    Plain HTTP is for the engine to decide: by default for loopback registries only.

    Raises:
        InvalidInput (InvalidImageName, or ErrImagePull for what is no container image), NotFound, Unauthenticated,
        Forbidden, Integrity, Exhausted, Unavailable: reason ErrImagePull.
    """
    reference = references.parse(text)
    fault: errors.Error | None = None
    for login in credentials or (None,):
        try:
            await _pull(engine, reference, login)
            break
        except errors.Error as exc:
            fault = _fault(text, exc)
            if isinstance(fault, errors.Unavailable | errors.Exhausted):
                raise fault from exc
    else:
        assert fault is not None
        raise fault
    image = await find(engine, text)
    if image is None:
        raise errors.NotFound(f"{text}: the engine removed it right after the pull", reason=REASON)
    return image


def _named(image: objects.Image) -> ContainerImage:
    given = [*(image.repo_digests or []), *(image.repo_tags or [])]
    names = [str(references.parse(name)) for name in given if "<none>" not in name]
    return ContainerImage(names=list(dict.fromkeys(names)), size_bytes=image.size)


def image_id(image: objects.Image, reference: Reference) -> str:
    """``repo@sha256:…`` in the repository that was asked for; the engine's own ID where there is none."""
    for digested in image.repo_digests or []:
        found = references.parse(digested)
        if found.repository == reference.repository:
            return str(found)
    return image.id


async def _pull(engine: Engine, reference: Reference, login: RegistryCredential | None) -> None:
    params = {"fromImage": reference.repository, "tag": reference.digest or reference.tag}
    await engine.progress("images/create", params, {} if login is None else _authorization(reference, login))


def _authorization(reference: Reference, login: RegistryCredential) -> dict[str, str]:
    """The header X-Registry-Auth: URL-safe base64 of an AuthConfig."""
    content = {"serveraddress": reference.domain}
    if login.identity_token:
        content["identitytoken"] = login.identity_token
    else:
        content.update(username=login.username, password=login.password)
    return {"X-Registry-Auth": base64.urlsafe_b64encode(msgspec.json.encode(content)).decode()}


def _fault(text: str, exc: errors.Error) -> errors.Error:
    lowered = exc.message.lower()
    kind = next((kind for kind, marks in _FAULTS if any(mark in lowered for mark in marks)), None)
    message = f"{text}: {exc.message}"
    if kind is errors.InvalidInput:
        message = f"{text} is not a container image, which a side-car needs (a virtual machine image?): {exc.message}"
    elif kind is None:
        kind = type(exc) if isinstance(exc, errors.NotFound | errors.DeadlineExceeded) else errors.Unavailable
    return kind(message, reason=REASON)
