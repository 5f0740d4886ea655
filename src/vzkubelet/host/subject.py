"""What a host is examined for: the agent as it would run, and what only other rooms can find out about it."""

from dataclasses import dataclass
from pathlib import Path

from vzkubelet.config import Config, DriverChoice
from vzkubelet.host.service.place import Place


@dataclass(frozen=True, slots=True)
class Cluster:
    """The API server as the kubeconfig has it. Of what could not be found out there is the reason."""

    server: str = ""
    client_certificate: bytes = b""
    """PEM; empty when the credential is a token or a plugin's."""
    user: str = ""
    """Whom the API server takes us for."""
    kubeconfig_fault: str = ""
    access_fault: str = ""
    """Why the server could not be asked, or refused."""
    pair_fault: str = ""
    """Why client certificate and key are no pair; then the server was not asked."""


@dataclass(frozen=True, slots=True)
class Program:
    """Something that has to be installed: a program, or else one of several files."""

    name: str
    package: str
    """Debian package."""
    purpose: str
    candidates: tuple[Path, ...] = ()
    """Files of which one must exist; empty = a program of this name."""
    required: bool = True


@dataclass(frozen=True, slots=True)
class Acceleration:
    works: bool
    reason: str
    """Why, or why not."""


@dataclass(frozen=True, slots=True)
class Subject:
    config: Config
    driver: DriverChoice
    """Never AUTO."""
    service: Place
    cluster: Cluster | None = None
    """None = the host is to run pods without a cluster."""
    mistakes: tuple[str, ...] = ()
    """In the configuration; where there are some, `config` has only what could be understood."""
    programs: tuple[Program, ...] = ()
    acceleration: Acceleration | None = None
    bridge_obstacle: str = ""
    """Why no tap interface could be made, when that was tried."""
    cache_obstacle: str = ""
    """Why the agent could not keep its state in the cache directory."""
    address: str = ""
    """Of the node, as the API server would be told it; empty where it is not known."""
    program: str = "macos-vz-kubelet"
    """How this program is started by somebody with another PATH."""
