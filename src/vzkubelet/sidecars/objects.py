"""The Docker Engine API's objects (v1.41), as far as they are read here, and its time stamps."""

import re
from datetime import datetime

import msgspec

from vzkubelet.errors import Unavailable, clip


class Object(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """Base: PascalCase on the wire. Fields that an engine leaves out take their default."""


class State(Object, frozen=True):
    status: str = ""
    """``created``, ``running``, ``paused``, ``restarting``, ``removing``, ``exited`` or ``dead``."""
    running: bool = False
    oom_killed: bool = msgspec.field(default=False, name="OOMKilled")
    exit_code: int = 0
    error: str = ""
    started_at: str = ""
    finished_at: str = ""


class Config(Object, frozen=True):
    labels: dict[str, str] | None = None
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    stop_signal: str = ""


class Endpoint(Object, frozen=True):
    ip_address: str = msgspec.field(default="", name="IPAddress")


class NetworkSettings(Object, frozen=True):
    networks: dict[str, Endpoint] | None = None


class Container(Object, frozen=True):
    """``GET /containers/{id}/json``."""

    id: str
    state: State = State()
    config: Config = Config()
    network_settings: NetworkSettings = NetworkSettings()
    size_rw: int | None = None


class ListedContainer(Object, frozen=True):
    """One of ``GET /containers/json``; `state` is the word of `State.status`."""

    id: str
    state: str = ""
    labels: dict[str, str] | None = None


class Created(Object, frozen=True):
    id: str


class Exec(Object, frozen=True):
    running: bool = False
    exit_code: int | None = None


class Image(Object, frozen=True):
    id: str
    repo_digests: list[str] | None = None
    repo_tags: list[str] | None = None
    size: int = 0


class Version(Object, frozen=True):
    arch: str = ""
    os: str = ""


class AddressPool(Object, frozen=True):
    subnet: str = ""
    gateway: str = ""
    ip_range: str = msgspec.field(default="", name="IPRange")


class Ipam(Object, frozen=True):
    config: list[AddressPool] | None = None


class Network(Object, frozen=True):
    id: str
    options: dict[str, str] | None = None
    ipam: Ipam = msgspec.field(default=Ipam(), name="IPAM")


class CpuUsage(msgspec.Struct, frozen=True):
    total_usage: int = 0


class CpuStats(msgspec.Struct, frozen=True):
    cpu_usage: CpuUsage = CpuUsage()


class MemoryStats(msgspec.Struct, frozen=True):
    usage: int = 0
    stats: dict[str, int] | None = None


class Stats(msgspec.Struct, frozen=True):
    """``GET /containers/{id}/stats``: the one part of the API with lower case keys."""

    cpu_stats: CpuStats = CpuStats()
    memory_stats: MemoryStats = MemoryStats()


class Progress(msgspec.Struct, frozen=True):
    """A line of the stream that pulls and imports answer with."""

    error: str = ""


_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?(Z|[+-]\d\d:\d\d)")
_NEVER_YEAR = "0001-"
"""Go's zero time: what an engine writes for something that has not happened."""


def epoch_ns(text: str) -> int:
    """Nanoseconds since the epoch of an RFC 3339 time; 0 for Go's zero time.

    Raises:
        Unavailable: not a time.
    """
    if not text or text.startswith(_NEVER_YEAR):
        return 0
    match = _TIME.fullmatch(text)
    if match is None:
        raise Unavailable(f'the Docker engine sent "{clip(text)}" as a time')
    seconds = datetime.fromisoformat(match[1] + match[3].replace("Z", "+00:00")).timestamp()
    return int(seconds) * 1_000_000_000 + int((match[2] or "").ljust(9, "0"))
