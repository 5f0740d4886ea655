"""Which images a host can run, in the words of OCI platforms."""

from vzkubelet.model.oci import Platform

_ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


def host_platforms(system: str, machine: str) -> tuple[Platform, ...]:
    """The platforms of a host, the preferred one first. `system` is ``sys.platform``, `machine` that of uname(2).

    A Mac runs macOS guests and, the same framework, Linux guests; other hosts run Linux guests only.
    """
    architecture = _ARCHITECTURES.get(machine.lower(), machine)
    linux = Platform(os="linux", architecture=architecture)
    return (Platform(os="darwin", architecture=architecture), linux) if system == "darwin" else (linux,)
