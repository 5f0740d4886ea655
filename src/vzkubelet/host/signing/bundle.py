"""What the app is made of. Pure: from an interpreter and wishes to files by their place in the bundle."""

import hashlib
import plistlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from vzkubelet import __version__
from vzkubelet.host.signing.interpreter import Interpreter, Library
from vzkubelet.model.mac import APP_EXECUTABLE, OLDEST_MACOS

NAME = "macos-vz-kubelet"
IDENTIFIER = "com.agoda.fleet.macos-vz-kubelet"
AD_HOC = "-"
CONTENTS = Path("Contents")
EXECUTABLE = Path(APP_EXECUTABLE)
INFO_PLIST = CONTENTS / "Info.plist"
RECORD = CONTENTS / "Resources" / "signed.json"
PROFILE = CONTENTS / "embedded.provisionprofile"
MIN_MACOS = ".".join(map(str, OLDEST_MACOS))


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle was made from, kept inside its signature; the same record = nothing to sign again."""

    version: str
    python: str
    identifier: str
    identity: str
    hardened: bool
    entitlements: dict[str, bool]
    files: dict[str, str]
    """sha256 of every file, by its place."""

    @property
    def identity_text(self) -> str:
        return "ad hoc" if self.identity == AD_HOC else self.identity


@dataclass(frozen=True, slots=True)
class Wishes:
    entitlements: Mapping[str, bool]
    identity: str = AD_HOC
    identifier: str = IDENTIFIER
    hardened: bool = False
    profile: bytes = b""
    """Provisioning profile; empty = none."""


@dataclass(frozen=True, slots=True)
class Plan:
    files: Mapping[Path, bytes]
    """Content by place; `EXECUTABLE` and `libraries` are programs."""
    libraries: tuple[Path, ...]
    """Nested code, signed before the bundle is."""
    record: Record


def plan(interpreter: Interpreter, executable: bytes, libraries: Mapping[Library, bytes], wishes: Wishes) -> Plan:
    """The whole bundle without its signature; contents of executable and libraries are given."""
    files = {
        EXECUTABLE: executable,
        INFO_PLIST: plistlib.dumps(info(wishes.identifier)),
        CONTENTS / "pyvenv.cfg": _environment(interpreter).encode(),
        _site_packages(interpreter) / f"{NAME}.pth": _path_file(interpreter).encode(),
    }
    places = {_within(library.place): data for library, data in libraries.items()}
    files |= places
    if wishes.profile:
        files[PROFILE] = wishes.profile
    record = Record(
        version=__version__,
        python=interpreter.version,
        identifier=wishes.identifier,
        identity=wishes.identity,
        hardened=wishes.hardened,
        entitlements=dict(sorted(wishes.entitlements.items())),
        files={str(place): hashlib.sha256(data).hexdigest() for place, data in sorted(files.items())},
    )
    files[RECORD] = msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n"
    return Plan(files, tuple(sorted(places)), record)


def read_record(data: bytes) -> Record:
    """Raises: ValueError."""
    return msgspec.json.decode(data, type=Record)


def info(identifier: str) -> dict[str, object]:
    """Info.plist. The usage texts are what macOS shows when it asks."""
    return {
        "CFBundleDevelopmentRegion": "en",
        "CFBundleExecutable": EXECUTABLE.name,
        "CFBundleIdentifier": identifier,
        "CFBundleInfoDictionaryVersion": "6.0",
        "CFBundleName": NAME,
        "CFBundlePackageType": "APPL",
        "CFBundleShortVersionString": __version__,
        "CFBundleVersion": __version__,
        "LSMinimumSystemVersion": MIN_MACOS,
        "LSUIElement": True,
        "NSLocalNetworkUsageDescription": "The node agent reaches its virtual machines over the local network.",
        "NSMicrophoneUsageDescription": "Virtual machines hear the microphone when their sound is set to host.",
    }


def _environment(interpreter: Interpreter) -> str:
    """``pyvenv.cfg`` (PEP 405): the standard library stays where it is, packages come from inside the bundle."""
    return (
        f"home = {interpreter.prefix / 'bin'}\ninclude-system-site-packages = false\nversion = {interpreter.version}\n"
    )


def _site_packages(interpreter: Interpreter) -> Path:
    return CONTENTS / "lib" / f"python{interpreter.short_version}" / "site-packages"


def _path_file(interpreter: Interpreter) -> str:
    """Leads to the packages of the agent's own environment, and obeys the path files there (editable installs)."""
    return "".join(f"import site; site.addsitedir({str(path)!r})\n" for path in interpreter.site_directories)


def _within(place: Path) -> Path:
    """From the executable's directory to the bundle's root."""
    return CONTENTS.joinpath(*place.parts[1:]) if place.parts[0] == ".." else EXECUTABLE.parent / place
