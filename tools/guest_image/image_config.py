"""The OCI image config that goes with the disk (image-spec v1.1, config.md): what to run when a pod does not say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

# Firmware and stub hold the loader, the kernel's image and its unpacked copy at once: 144 MiB boots, 128 does not.
MEMORY_MIN_MIB = 192
_LABELS = {
    "macos-vz-kubelet.machine.cpu-min": "1",
    "macos-vz-kubelet.machine.memory-min-bytes": str(MEMORY_MIN_MIB * 1024 * 1024),
}


@dataclass(frozen=True, slots=True)
class Defaults:
    """Empty = the image says nothing about it."""

    entrypoint: Sequence[str] = ()
    cmd: Sequence[str] = ()
    env: Sequence[str] = ()
    user: str = ""
    working_dir: str = ""


def document(defaults: Defaults) -> str:
    """The config as JSON text, for `image push --image-config`."""
    config: dict[str, object] = {"Labels": _LABELS}
    fields: dict[str, object] = {
        "Entrypoint": list(defaults.entrypoint),
        "Cmd": list(defaults.cmd),
        "Env": list(defaults.env),
        "User": defaults.user,
        "WorkingDir": defaults.working_dir,
    }
    config.update({name: value for name, value in fields.items() if value})
    whole = {
        "architecture": "amd64",
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": []},
    }
    return json.dumps(whole, indent=2, sort_keys=True) + "\n"
