"""The sandbox's program as bytes; tests/conformance runs it."""

import struct

import pytest

from vzkubelet.errors import Unsupported
from vzkubelet.sidecars import pause


@pytest.mark.parametrize(("architecture", "machine", "size"), [("amd64", 62, 129), ("arm64", 183, 148)])
def test_executable(architecture: str, machine: int, size: int) -> None:
    content = pause.elf(architecture)
    assert len(content) == size
    assert struct.unpack_from("<4sBBB", content) == (b"\x7fELF", 2, 1, 1)
    kind, found_machine, _, entry, program_headers = struct.unpack_from("<HHIQQ", content, 16)
    assert (kind, found_machine, program_headers) == (2, machine, 64)
    load, flags, offset, address, _, in_file, in_memory, align = struct.unpack_from("<IIQQQQQQ", content, 64)
    assert (load, flags, offset, in_file, in_memory) == (1, 5, 0, size, size)
    assert address % align == offset % align
    assert entry - address == 120  # the code follows both headers


def test_other_architecture() -> None:
    with pytest.raises(Unsupported, match="riscv64"):
        pause.elf("riscv64")
