"""Credential plugins: programs that print an ExecCredential (client.authentication.k8s.io v1 and v1beta1)."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import msgspec

from vzkubelet import program
from vzkubelet.errors import DeadlineExceeded, InvalidInput, Unauthenticated, clip
from vzkubelet.kube.kubeconfig import Access, ExecConfig

TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class ExecCredential:
    """What a plugin gave: a token, a client certificate with its key (PEM), or both."""

    token: str = field(default="", repr=False)
    client_certificate: bytes = b""
    client_key: bytes = field(default=b"", repr=False)
    expires_at: float | None = None
    """Seconds since the epoch; None = as long as the API server accepts it."""


class _Status(msgspec.Struct, frozen=True, rename="camel"):
    token: str = ""
    client_certificate_data: str = ""
    client_key_data: str = ""
    expiration_timestamp: datetime | None = None


class _Output(msgspec.Struct, frozen=True, rename="camel"):
    kind: str = ""
    api_version: str = ""
    status: _Status | None = None


async def run(access: Access, config: ExecConfig, environment: Mapping[str, str]) -> ExecCredential:
    """Start the plugin and read its credential. Cancelling kills it.

    Raises:
        InvalidInput: the program does not exist or prints something else.
        Unauthenticated: it failed. DeadlineExceeded: it took longer than a minute.
    """
    path = _path(config, access.exec_directory)
    variables = {
        **environment,
        **{variable.name: variable.value for variable in config.env or []},
        "KUBERNETES_EXEC_INFO": exec_info(access, config),
    }
    output = await _output_of(path, config, variables)
    return parse(output, config)


def exec_info(access: Access, config: ExecConfig) -> str:
    """KUBERNETES_EXEC_INFO: what the plugin is told. It is never interactive."""
    spec: dict[str, object] = {"interactive": False}
    if config.provide_cluster_info:
        cluster: dict[str, object] = {"server": access.server}
        if access.ca:
            cluster["certificate-authority-data"] = access.ca
        if access.insecure:
            cluster["insecure-skip-tls-verify"] = True
        if access.server_name:
            cluster["tls-server-name"] = access.server_name
        spec["cluster"] = cluster
    info = {"kind": "ExecCredential", "apiVersion": config.api_version, "spec": spec}
    return msgspec.json.encode(info).decode()


def parse(output: bytes, config: ExecConfig) -> ExecCredential:
    """Raises InvalidInput: not an ExecCredential of the version that was asked for, or one without a credential."""
    try:
        answer = msgspec.json.decode(output, type=_Output)
    except msgspec.MsgspecError as exc:
        raise InvalidInput(f"credential plugin {config.command}: prints no ExecCredential: {clip(str(exc))}") from exc
    if answer.kind != "ExecCredential" or answer.api_version != config.api_version:
        raise InvalidInput(
            f"credential plugin {config.command}: prints {clip(answer.kind)} {clip(answer.api_version)}, "
            f"but the kubeconfig says {config.api_version}"
        )
    status = answer.status
    if status is None or not (status.token or status.client_certificate_data):
        raise InvalidInput(f"credential plugin {config.command}: gives neither a token nor a certificate")
    if bool(status.client_certificate_data) != bool(status.client_key_data):
        raise InvalidInput(f"credential plugin {config.command}: gives a certificate or a key without the other")
    return ExecCredential(
        token=status.token,
        client_certificate=status.client_certificate_data.encode(),
        client_key=status.client_key_data.encode(),
        expires_at=status.expiration_timestamp.timestamp() if status.expiration_timestamp else None,
    )


def _path(config: ExecConfig, directory: Path | None) -> str:
    """As clientcmd: a name is looked up in PATH, a path with a separator is relative to the kubeconfig."""
    if os.sep in config.command and directory is not None:
        return str(directory / config.command)
    return config.command


async def _output_of(path: str, config: ExecConfig, variables: Mapping[str, str]) -> bytes:
    try:
        finished = await program.run([path, *(config.args or [])], b"", variables, TIMEOUT_S)
    except InvalidInput as exc:
        hint = f": {clip(config.install_hint)}" if config.install_hint and isinstance(exc.__cause__, OSError) else ""
        raise InvalidInput(f"credential plugin {exc.message}{hint}") from exc
    except DeadlineExceeded as exc:
        raise DeadlineExceeded(f"credential plugin {exc.message}") from exc
    if finished.exit_code != 0:
        raise Unauthenticated(
            f"credential plugin {path} failed with exit code {finished.exit_code}: "
            f"{clip(finished.stderr.decode(errors='replace'))}"
        )
    return finished.stdout
