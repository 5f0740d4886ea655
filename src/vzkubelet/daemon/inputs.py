"""What the agent was given in files and names, tried before anything of the host is changed."""

import ssl
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from vzkubelet.config import Config, DriverChoice
from vzkubelet.daemon import image_access, parts
from vzkubelet.errors import InvalidInput, Unsupported
from vzkubelet.guests import ssh
from vzkubelet.kube import credentials, kubeconfig
from vzkubelet.machines.process import SEARCH_PATH
from vzkubelet.machines.qemu.host import find_host
from vzkubelet.server import tls


def require(settings: Config) -> None:
    """Raises: InvalidInput with everything that is wrong at once."""
    refuse(list(mistakes(settings)))


def refuse(told: Sequence[str]) -> None:
    """Raises: InvalidInput unless there is nothing to tell."""
    if len(told) == 1:
        raise InvalidInput(told[0], reason="InvalidConfiguration")
    if told:
        listed = "".join(f"\n  {mistake}" for mistake in told)
        raise InvalidInput(f"{len(told)} mistakes in the configuration:{listed}", reason="InvalidConfiguration")


def mistakes(settings: Config, told: Sequence[str] = (), *, may_lack_kubeconfig: bool = False) -> Iterator[str]:
    """What the agent would refuse beyond what `config` did; no file that was `told` to be unreadable a second time."""
    found: list[str] = []
    if not may_lack_kubeconfig or settings.kube.kubeconfig.exists():
        found += _mistakes(lambda: _kubeconfig(settings))
    found += [*serving(settings), *guests(settings), *_mistakes(lambda: image_access.require(settings))]
    yield from untold(settings, found, told)


def untold(settings: Config, found: Iterable[str], told: Sequence[str]) -> Iterator[str]:
    files = (
        settings.kube.kubeconfig,
        settings.server.cert_file,
        settings.server.key_file,
        settings.server.client_ca_file,
        settings.guests.ssh_key_path,
    )
    unreadable = [str(file) for file in files if any(f": cannot read {file}: " in mistake for mistake in told)]
    return (mistake for mistake in found if not any(file in mistake for file in unreadable))


def require_driver(settings: Config, system: str, *, must_exist: bool) -> None:
    """Raises: Unsupported for a driver of another system, InvalidInput when a program of it is missing."""
    driver = settings.machines.driver
    if driver is DriverChoice.VZ and system != "darwin":
        raise Unsupported("--machine-driver vz runs on a Mac; on Linux use --machine-driver qemu")
    if driver is DriverChoice.QEMU and system != "linux":
        raise Unsupported("--machine-driver qemu runs on Linux hosts; on a Mac use --machine-driver vz")
    if must_exist and system == "linux" and driver is not DriverChoice.SYNTHETIC:
        firmware = settings.machines.firmware
        find_host(SEARCH_PATH, None if firmware is None else firmware.absolute())


def serving(settings: Config) -> Iterator[str]:
    """What is wrong with the files of the kubelet API. Which are not given at all is told by `config`."""
    server = settings.server
    if server.cert_file is not None and server.key_file is not None:
        certificate, key = server.cert_file, server.key_file
        yield from _mistakes(lambda: tls.load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), certificate, key))
    yield from client_authority(settings)


def client_authority(settings: Config) -> Iterator[str]:
    authority = settings.server.client_ca_file
    if authority is not None and settings.server.verify_clients:
        yield from _mistakes(lambda: tls.load_client_ca(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), Path(authority)))


def guests(settings: Config) -> Iterator[str]:
    """What is wrong with the way into guests."""
    if settings.machines.driver is DriverChoice.SYNTHETIC:
        return
    login, policy = parts.guest_access(settings)
    yield from _mistakes(lambda: ssh.require_key(login))
    yield from _mistakes(lambda: ssh.require_algorithms(policy))


def _kubeconfig(settings: Config) -> None:
    access = kubeconfig.load(settings.kube.kubeconfig)
    if access.server.startswith("https:"):
        credentials.tls_context(access, access.client_certificate, access.client_key)


def _mistakes(attempt: Callable[[], object]) -> Iterator[str]:
    try:
        attempt()
    except InvalidInput as exc:
        yield str(exc)
