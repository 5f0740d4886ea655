"""Programs of a Mac as far as they are used here, and an interpreter to sign."""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.recorded_host import RecordedHost
from vzkubelet.host.probe import COMMAND_TIMEOUT_S, Output
from vzkubelet.host.signing import macho
from vzkubelet.host.signing.interpreter import Interpreter

BUILD_UUID = bytes(range(16))
MAC = Path(__file__).parents[1] / "unit/host/hosts/mac"


def executable(*libraries: str, rpaths: Sequence[str] = (), fat: bool = False) -> bytes:
    """A Mach-O file that has nothing but its load commands."""
    commands = b""
    for command, names in ((0xC, libraries), (0x8000001C, rpaths)):
        for name in names:
            text = name.encode() + b"\0" * (8 - len(name) % 8)
            offset = 24 if command == 0xC else 12
            body = struct.pack("<III", command, offset + len(text), offset).ljust(offset, b"\0") + text
            commands += body
    commands += struct.pack("<II", 0x1B, 24) + BUILD_UUID
    thin = struct.pack(
        "<IiiIIIII", 0xFEEDFACF, macho.ARM64, 0, 2, len(libraries) + len(rpaths) + 1, len(commands), 0, 0
    )
    thin += commands
    if not fat:
        return thin
    intel = b"\xcf\xfa\xed\xfe" + b"\0" * 28
    header = struct.pack(">II", 0xCAFEBABE, 2)
    header += struct.pack(">iiIII", 0x01000007, 3, 64, len(intel), 0)
    header += struct.pack(">iiIII", macho.ARM64, 0, 128, len(thin), 0)
    return header.ljust(64, b"\0") + intel.ljust(64, b"\0") + thin


def standalone_python(directory: Path) -> Interpreter:
    """As python-build-standalone lays it out: the library beside, found relative to the executable."""
    prefix = directory / "python"
    (prefix / "bin").mkdir(parents=True)
    (prefix / "lib").mkdir()
    (prefix / "lib/libpython3.12.dylib").write_bytes(b"library")
    program = prefix / "bin/python3.12"
    program.write_bytes(executable("@executable_path/../lib/libpython3.12.dylib", "/usr/lib/libSystem.B.dylib"))
    packages = directory / "venv/lib/python3.12/site-packages"
    packages.mkdir(parents=True)
    return Interpreter(prefix, program, "", "3.12.8", (packages,))


class Codesign(RecordedHost):
    """A Mac whose codesign believes what it is told; what it signed is remembered by the app's last path component."""

    def __init__(self) -> None:
        super().__init__(MAC)
        self.granted: bytes = b""
        self.fails_at = ""
        self.proof = Output(0, "ok\n")

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float = COMMAND_TIMEOUT_S,
        environment: Mapping[str, str] | None = None,
    ) -> Output:
        self.ran.append(" ".join(argv))
        if self.fails_at and self.fails_at in self.ran[-1]:
            return Output(1, "", "codesign: failed")
        if "-c" in argv:
            return self.proof
        if "--entitlements" in argv and "--sign" in argv:
            self.granted = Path(argv[argv.index("--entitlements") + 1]).read_bytes()
        return Output(0, self.granted.decode() if "-d" in argv else "")

    def read(self, path: Path) -> bytes:
        return path.read_bytes()


class Manager(RecordedHost):
    """launchd and systemd as far as they are used; a job that is booted out is there for a while."""

    def __init__(self) -> None:
        super().__init__(MAC)
        self.loaded = False
        self.lingers = 0
        self.refuses = ""
        self.system_state = "running"

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float = COMMAND_TIMEOUT_S,
        environment: Mapping[str, str] | None = None,
    ) -> Output:
        self.ran.append(" ".join(argv))
        if self.refuses and self.refuses in self.ran[-1]:
            return Output(5, "", "Bootstrap failed: 5: Input/output error")
        match list(argv):
            case ["systemctl", *_, "is-system-running"]:
                return Output(0 if self.system_state == "running" else 1, f"{self.system_state}\n")
            case ["launchctl", "print", _]:
                if not self.loaded and self.lingers:
                    self.lingers -= 1
                    return Output(0)
                return Output(0 if self.loaded else 113)
            case ["launchctl", "bootstrap", *_]:
                self.loaded = True
            case ["launchctl", "bootout", _]:
                self.loaded = False
        return Output(0)
