"""The pod sandbox's process: a program that only waits, as an image made on the spot.

A node must be able to run side-cars without a registry that has a pause image, so the image is made here and imported
through the API. The program is the kernel's smallest: an ELF header and a handful of instructions that wait for a
signal for ever. As the first process of its PID namespace it is deaf to everything but SIGKILL, and it adopts no
orphans because each side-car has a PID namespace of its own.
"""

import io
import struct
import tarfile

from vzkubelet.errors import NotFound, Unsupported
from vzkubelet.sidecars import objects
from vzkubelet.sidecars.engine import Engine

REPOSITORY = "macos-vz-kubelet/pause"
VERSION = "1"
_PROGRAM = "pause"
_LOAD_ADDRESS = 0x400000
_HEADERS_BYTES = 64 + 56
_PAGE_BYTES = 0x10000
"""The largest page size of either architecture."""

_AMD64 = bytes.fromhex(
    "b8 22 00 00 00"  # 0: mov eax, 34     pause(2)
    "0f 05"  #          5: syscall
    "eb f7"  #          7: jmp 0           a handled signal ends the call
)
_ARM64 = bytes.fromhex(
    "00 00 80 d2"  #  0: mov x0, #0     ppoll(2) of nothing, without time limit: arm64 has no pause(2)
    "01 00 80 d2"  #  4: mov x1, #0
    "02 00 80 d2"  #  8: mov x2, #0
    "03 00 80 d2"  # 12: mov x3, #0
    "28 09 80 d2"  # 16: mov x8, #73
    "01 00 00 d4"  # 20: svc #0
    "fa ff ff 17"  # 24: b 0
)
_MACHINES = {"amd64": (62, _AMD64), "arm64": (183, _ARM64)}
"""ELF machine number and code by GOARCH."""


def elf(architecture: str) -> bytes:
    """The program as an ELF executable of one loaded segment.

    Raises:
        Unsupported: an architecture without code here.
    """
    if architecture not in _MACHINES:
        raise Unsupported(f"side-cars need a Docker engine for amd64 or arm64, this one is for {architecture}")
    machine, code = _MACHINES[architecture]
    size = _HEADERS_BYTES + len(code)
    identity = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)  # 64 bit, little endian, version 1
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        identity,
        2,  # executable
        machine,
        1,
        _LOAD_ADDRESS + _HEADERS_BYTES,  # entry point
        64,  # the program header follows at once
        0,
        0,
        64,
        56,
        1,  # one program header
        0,
        0,
        0,
    )
    # PT_LOAD, readable and executable, the whole file.
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _LOAD_ADDRESS, _LOAD_ADDRESS, size, size, _PAGE_BYTES)
    return header + segment + code


def archive(architecture: str) -> bytes:
    """A root file system with nothing but the program, as a tar."""
    content = elf(architecture)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        member = tarfile.TarInfo(_PROGRAM)
        member.size, member.mode = len(content), 0o755
        tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


async def ensure(engine: Engine) -> str:
    """Make sure that the engine has the image; returns its reference. One small request when it has."""
    version = await engine.get("version", objects.Version)
    if version.os != "linux":
        raise Unsupported(f"side-cars need a Docker engine for Linux containers, this one is for {version.os}")
    tag = f"{VERSION}-{version.arch}"
    reference = f"{REPOSITORY}:{tag}"
    try:
        await engine.get(f"images/{reference}/json", objects.Image)
    except NotFound:
        await engine.progress(
            "images/create",
            {"fromSrc": "-", "repo": REPOSITORY, "tag": tag, "changes": f'ENTRYPOINT ["/{_PROGRAM}"]'},
            {"Content-Type": "application/x-tar"},
            archive(version.arch),
        )
    return reference
