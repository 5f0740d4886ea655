"""The configuration document that agoda and the chunked format share: system and boot data. Pure."""

import base64
from collections.abc import Mapping

from vzkubelet.errors import clip
from vzkubelet.images.formats import image_config
from vzkubelet.images.formats.artifact import Artifact, Machine, invalid_image
from vzkubelet.images.formats.fields import Fields
from vzkubelet.model.oci import Platform

_DEFAULT_PLATFORM = Platform(os="darwin", architecture="arm64")


def read_machine(artifact: Artifact, config: bytes, extra: bytes | None, name: str) -> Machine:
    """What config.json and the image config say.

    Raises:
        InvalidInput: malformed, contradictory, or a macOS image without its boot data.
    """
    document = Fields.of(config, "config.json", name, any_case=True)  # as Go's reader takes it
    os_ = system(artifact.platform.os, document.text("os"), name)
    hardware_model = document.data("hardwareModelData")
    machine_id = document.data("machineIdData")
    if os_ == "darwin" and not (hardware_model and machine_id):
        raise invalid_image(f"{name}: config.json of a macOS image needs hardwareModelData and machineIdData")
    parsed = image_config.read(extra, name)
    machine = Machine(
        os=os_,
        architecture=artifact.platform.architecture or parsed.architecture or _DEFAULT_PLATFORM.architecture,
        hardware_model=hardware_model,
        machine_id=machine_id,
    )
    return image_config.described(machine, parsed, name)


def system(manifest_os: str, document_os: str, name: str) -> str:
    """The system of an image by what its manifest and its configuration say; ``darwin`` where neither does."""
    if manifest_os and document_os and manifest_os != document_os:
        raise invalid_image(f"{name}: the manifest says os {clip(manifest_os)}, config.json says {clip(document_os)}")
    os_ = manifest_os or document_os or _DEFAULT_PLATFORM.os
    if os_ not in ("darwin", "linux"):
        raise invalid_image(f"{name}: os {clip(os_)} is neither darwin nor linux")
    return os_


def check(machine: Machine) -> None:
    """Raises InvalidInput: a machine that no image can be written of."""
    if machine.os not in ("darwin", "linux"):
        raise invalid_image(f"os {clip(machine.os)} is neither darwin nor linux")
    if machine.os == "darwin" and not (machine.hardware_model and machine.machine_id):
        raise invalid_image(
            "a macOS image needs hardware model and machine identifier: without, the guest does not boot"
        )


def members(machine: Machine, media_type: str) -> dict[str, object]:
    """What config.json says besides the files."""
    return {
        "mediatype": media_type,
        "os": machine.os,
        "hardwareModelData": base64.b64encode(machine.hardware_model).decode(),
        "machineIdData": base64.b64encode(machine.machine_id).decode(),
    }


def write_image_config(machine: Machine, given: Mapping[str, object] | None) -> bytes | None:
    """The optional image config, with hints in labels; None when nothing is to be said.

    Raises:
        InvalidInput: `given` is not an OCI image config.
    """
    if given is None and not image_config.says_anything(machine):
        return None
    return image_config.write(machine, given, image_config.hints(machine))
