"""What the agent was given in files and names, tried before anything of the host is changed."""

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

from vzkubelet.config import Config, DriverChoice
from vzkubelet.daemon import parts
from vzkubelet.errors import InvalidInput
from vzkubelet.guests import ssh
from vzkubelet.kube import credentials, kubeconfig
from vzkubelet.server import tls


def require(settings: Config) -> None:
    """Raises: InvalidInput with everything that is wrong at once."""
    mistakes = [*_mistakes(lambda: _kubeconfig(settings)), *serving(settings), *guests(settings)]
    if len(mistakes) == 1:
        raise InvalidInput(mistakes[0], reason="InvalidConfiguration")
    if mistakes:
        listed = "".join(f"\n  {mistake}" for mistake in mistakes)
        raise InvalidInput(f"{len(mistakes)} mistakes in the configuration:{listed}", reason="InvalidConfiguration")


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
