"""One image: inputs to files, through a cache that knows each combination of inputs once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID, uuid5

from . import cpio, esp, ext4, firmware, gpt, rootfs
from .errors import BuildError
from .inputs import Inputs
from .packages import fetch, unpack
from .programs import require, run

DISK, AUX, FIRMWARE, MANIFEST = "disk.img", "aux.img", "firmware.fd", "manifest.json"
Report = Callable[[str], None]

# Every time in the image; nothing depends on the value, only on its being fixed. 2025-01-01T00:00:00Z.
_EPOCH_S = 1735689600
# Disk, partitions and file systems of an image always have the same identifiers.
_NAMESPACE = UUID("7f6d3b62-52f5-4d57-9a83-6d3a2c0f8e11")
_MIB = 1024 * 1024
_DAY_S = 86400
_KEPT_IMAGES = 8
# Console first, then what shortens an emulated boot: no self tests of ciphers and key derivation, no mitigations that
# an emulated CPU has no use for, no probes for hardware that no guest has, and no `rep stosb` (bits 297 ERMS and 112
# REP_GOOD), which emulation runs byte by byte: clearing pages with it costs 0.4 s.
_COMMAND_LINE = (
    "console=ttyS0 quiet panic=-1 cryptomgr.notests initcall_blacklist=crypto_kdf108_init mitigations=off nokaslr "
    "tsc=reliable 8250.nr_uarts=1 clearcpuid=297,112"
)
_TOOLS = ("apt-cache", "apt-get", "debugfs", "dpkg-deb", "dpkg-query", "mcopy", "mke2fs", "mkfs.vfat", "mmd")


def _identifier(name: str) -> UUID:
    return uuid5(_NAMESPACE, name)


def check_host() -> None:
    """Raises: BuildError when a program is missing or the packages of this host are of another architecture."""
    require(*_TOOLS)
    architecture = run(["dpkg", "--print-architecture"]).strip()
    if architecture != "amd64":
        raise BuildError(f"this host's packages are for {architecture}: guest images are built on Debian amd64 only")


def _stage(inputs: Inputs, store: Path, root: Path, report: Report) -> None:
    report(f"fetching {len(inputs.packages)} packages (5 s, nothing the second time)")
    archives = fetch(inputs.packages, store)
    report("unpacking (3 s)")
    unpack(archives, root)


def _write_files(inputs: Inputs, staged: Path, out: Path, report: Report) -> None:
    settings = inputs.settings
    modules = rootfs.KernelModules.of(staged)
    report("packing kernel and initial root (1 s)")
    loader = esp.unified_kernel(
        (staged / "usr/lib/systemd/boot/efi/linuxx64.efi.stub").read_bytes(),
        kernel=(staged / f"boot/vmlinuz-{modules.release}").read_bytes(),
        initramfs=cpio.archive(rootfs.initramfs(staged, modules, settings), _EPOCH_S),
        command_line=_COMMAND_LINE,
        os_release=f"ID=guest\nNAME=Guest\nVERSION_ID={modules.release}\n",
    )
    esp_image, root_image = out / "esp.img", out / "root.img"
    esp.write(esp_image, loader, volume_id=_identifier("esp").int & 0xFFFFFFFF, epoch_s=_EPOCH_S)
    tree = rootfs.root(staged, modules, settings)
    root_bytes = inputs.size_mib * _MIB - gpt.overhead_bytes() - esp_image.stat().st_size
    if root_bytes < tree.content_bytes() + 16 * _MIB:
        least = inputs.size_mib + (tree.content_bytes() + 16 * _MIB - root_bytes) // _MIB + 1
        raise BuildError(
            f"the guest's files do not fit a disk of {inputs.size_mib} MiB: give --size-mib {least} or more"
        )
    report("writing file systems (1 s)")
    uuid = str(_identifier("root file system"))
    ext4.write(root_image, tree, size_bytes=root_bytes, label="root", uuid=uuid, epoch_s=_EPOCH_S)
    partitions = [
        gpt.Partition(gpt.EFI_SYSTEM, _identifier("esp"), "esp", esp_image),
        gpt.Partition(gpt.LINUX_ROOT_X86_64, _identifier("root partition"), "guest-root", root_image),
    ]
    gpt.write(out / DISK, partitions, guid=_identifier("disk"))
    esp_image.unlink()
    root_image.unlink()
    _write_firmware(staged / "usr/share/OVMF", out, report)


def _write_firmware(ovmf: Path, out: Path, report: Report) -> None:
    shutil.copyfile(ovmf / "OVMF_VARS_4M.fd", out / AUX)
    code = (ovmf / "OVMF_CODE_4M.fd").read_bytes()
    report("trimming the firmware (4 s)")
    try:
        code = firmware.trimmed(code)
    except firmware.UnknownLayoutError as exc:
        report(f"  kept whole, guests will boot 2 s slower: {exc}")
    (out / FIRMWARE).write_bytes(code)


def _describe(path: Path) -> dict[str, object]:
    with path.open("rb") as stream:
        return {"sha256": hashlib.file_digest(stream, "sha256").hexdigest(), "sizeBytes": path.stat().st_size}


def build(inputs: Inputs, cache: Path, report: Report) -> Path:
    """The directory in `cache` with disk, aux storage and manifest for these inputs, made now if it is not there.

    Raises: BuildError.
    """
    entry = cache / inputs.key()
    if (entry / MANIFEST).exists():
        report(f"unchanged since it was built: {entry.name}")
        os.utime(entry)
        return entry
    cache.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with TemporaryDirectory(dir=cache, prefix=".building-") as scratch:
        staged, out = Path(scratch) / "staged", Path(scratch) / "out"
        staged.mkdir()
        out.mkdir()
        _stage(inputs, cache / "packages", staged, report)
        _write_files(inputs, staged, out, report)
        outputs = {name: _describe(out / name) for name in (DISK, AUX, FIRMWARE)}
        facts = {"key": inputs.key(), "kernel": inputs.kernel.name, **inputs.facts(), "outputs": outputs}
        (out / MANIFEST).write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n")
        try:
            out.rename(entry)
        except OSError:  # somebody else built the same meanwhile
            if not (entry / MANIFEST).exists():
                raise
    _prune(cache)
    report(f"built in {time.monotonic() - began:.0f} s: {entry.name}")
    return entry


def _prune(cache: Path) -> None:
    """Forget all but the images used last, and what builds that were killed left behind."""
    images = sorted((path.parent for path in cache.glob(f"*/{MANIFEST}")), key=lambda path: path.stat().st_mtime)
    yesterday = time.time() - _DAY_S
    killed = [path for path in cache.glob(".building-*") if path.stat().st_mtime < yesterday]
    for path in [*images[:-_KEPT_IMAGES], *killed]:
        shutil.rmtree(path, ignore_errors=True)


def deliver(entry: Path, output: Path) -> None:
    """Copy an entry of the cache to `output`, holes kept, each file replaced at once."""
    output.mkdir(parents=True, exist_ok=True)
    for name in (DISK, AUX, FIRMWARE, MANIFEST):
        part = output / f".{name}.{os.getpid()}"
        try:
            run(["cp", "--reflink=auto", "--sparse=always", str(entry / name), str(part)])
            part.rename(output / name)
        finally:
            part.unlink(missing_ok=True)
