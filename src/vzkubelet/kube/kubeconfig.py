"""Kubeconfig files: one context of one or several files as an `Access` (clientcmd ``api/v1`` and its merge rules)."""

import base64
import binascii
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from vzkubelet.errors import InvalidInput, clip

IN_CLUSTER_DIRECTORY = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


class ExecEnv(msgspec.Struct, frozen=True):
    name: str = ""
    value: str = ""


class ExecConfig(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A credential plugin (client.authentication.k8s.io), started by `vzkubelet.kube.exec_plugin`."""

    api_version: str = ""
    command: str = ""
    args: list[str] | None = None
    env: list[ExecEnv] | None = None
    install_hint: str = ""
    provide_cluster_info: bool = False
    interactive_mode: str = ""


@dataclass(frozen=True, slots=True)
class Access:
    """Where the API server is and who we are to it. Certificates and keys are PEM; empty = not given."""

    server: str
    """URL without a trailing slash; a path in it belongs to every request."""
    ca: bytes = b""
    insecure: bool = False
    server_name: str = ""
    """Name that the server's certificate is checked for instead of the host in the URL."""
    client_certificate: bytes = b""
    client_key: bytes = field(default=b"", repr=False)
    token: str = field(default="", repr=False)
    token_file: Path | None = None
    exec: ExecConfig | None = None
    exec_directory: Path | None = None
    """What a relative plugin path is relative to."""


class _Cluster(msgspec.Struct, frozen=True, rename="kebab"):
    server: str = ""
    certificate_authority: str = ""
    certificate_authority_data: str = ""
    insecure_skip_tls_verify: bool = False
    tls_server_name: str = ""
    proxy_url: str = ""


class _User(msgspec.Struct, frozen=True, rename="kebab"):
    client_certificate: str = ""
    client_certificate_data: str = ""
    client_key: str = ""
    client_key_data: str = ""
    token: str = ""
    token_file: str = msgspec.field(default="", name="tokenFile")
    username: str = ""
    password: str = ""
    impersonate: str = msgspec.field(default="", name="as")
    auth_provider: Any = None
    exec: ExecConfig | None = None


class _Context(msgspec.Struct, frozen=True):
    cluster: str = ""
    user: str = ""


class _NamedCluster(msgspec.Struct, frozen=True):
    name: str
    cluster: _Cluster | None = None


class _NamedUser(msgspec.Struct, frozen=True):
    name: str
    user: _User | None = None


class _NamedContext(msgspec.Struct, frozen=True):
    name: str
    context: _Context | None = None


class _File(msgspec.Struct, frozen=True):
    current_context: str | None = msgspec.field(default=None, name="current-context")
    clusters: list[_NamedCluster] | None = None
    users: list[_NamedUser] | None = None
    contexts: list[_NamedContext] | None = None


def load(files: Path | Sequence[Path], context: str = "") -> Access:
    """The access of `context`, or of the current one.

    As KUBECONFIG has it: of several files the first that has an entry wins, files that do not exist are passed over as
    long as one does, and file names in a kubeconfig are relative to it.

    Raises:
        InvalidInput: unreadable, malformed, or asks for what this client does not do; names the file and the reason.
    """
    paths = (files,) if isinstance(files, Path) else tuple(files)
    merged = _merge(paths)
    if not merged:
        raise InvalidInput(f"cannot read kubeconfig {', '.join(map(str, paths))}: no such file")
    name, origin = _current(merged, context)
    found = _entry([(path, c.name, c.context) for path, file in merged for c in file.contexts or []], name)
    if found is None:
        _fail(origin, f'there is no context "{clip(name)}"')
    place, chosen = found
    return _access(merged, place, name, chosen)


def in_cluster(environment: Mapping[str, str], directory: Path = IN_CLUSTER_DIRECTORY) -> Access:
    """The access of a pod's service account; its token is read again as the kubelet renews it.

    Raises:
        InvalidInput: not in a pod, or the service account is not mounted.
    """
    host, port = environment.get("KUBERNETES_SERVICE_HOST", ""), environment.get("KUBERNETES_SERVICE_PORT", "")
    if not host or not port:
        raise InvalidInput(
            "not inside a cluster: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set; give a kubeconfig"
        )
    token_file = directory / "token"
    _read(directory, token_file, "service account token")
    return Access(
        server=f"https://{f'[{host}]' if ':' in host else host}:{port}",
        ca=_read(directory, directory / "ca.crt", "CA certificate"),
        token_file=token_file,
    )


def _merge(paths: Sequence[Path]) -> list[tuple[Path, _File]]:
    merged = []
    for path in paths:
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            continue
        except OSError as exc:
            raise InvalidInput(f"cannot read kubeconfig {path}: {exc.strerror}") from exc
        merged.append((path, _parse(path, content)))
    return merged


def _parse(path: Path, content: bytes) -> _File:
    import yaml  # 13 ms that --help does not need

    try:
        document = yaml.safe_load(content)
    except yaml.MarkedYAMLError as exc:
        # The exception's own text quotes the line, which may hold a token.
        where = f" in line {exc.problem_mark.line + 1}" if exc.problem_mark else ""
        raise InvalidInput(f"kubeconfig {path}: not YAML: {exc.problem}{where}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise InvalidInput(f"kubeconfig {path}: not YAML: it is not text") from None
    if document is None:
        return _File()
    if not isinstance(document, dict):
        _fail(path, "not a mapping with clusters, users and contexts")
    try:
        return msgspec.convert(document, _File)
    except msgspec.ValidationError as exc:
        raise InvalidInput(f"kubeconfig {path}: {clip(str(exc))}") from exc


def _current(merged: Sequence[tuple[Path, _File]], context: str) -> tuple[str, Path]:
    if context:
        return context, merged[0][0]
    found = next(((file.current_context, path) for path, file in merged if file.current_context), None)
    if found is None:
        _fail(merged[0][0], "no current-context is set")
    return found


def _entry(entries: Sequence[tuple[Path, str, Any]], name: str) -> tuple[Path, Any] | None:
    return next(((path, value) for path, known, value in entries if known == name and value is not None), None)


def _access(merged: Sequence[tuple[Path, _File]], origin: Path, name: str, context: _Context) -> Access:
    found = _entry([(path, c.name, c.cluster) for path, file in merged for c in file.clusters or []], context.cluster)
    if found is None:
        _fail(origin, f'context "{clip(name)}" names cluster "{clip(context.cluster)}", which does not exist')
    cluster_file, cluster = found
    user_file, user = origin, _User()
    if context.user:
        found = _entry([(path, u.name, u.user) for path, file in merged for u in file.users or []], context.user)
        if found is None:
            _fail(origin, f'context "{clip(name)}" names user "{clip(context.user)}", which does not exist')
        user_file, user = found
    _refuse(user_file, user)
    credential = any((user.client_certificate, user.client_certificate_data, user.token, user.token_file))
    server = _server(cluster_file, cluster, credential=credential)
    ca = _material(
        cluster_file, cluster.certificate_authority_data, cluster.certificate_authority, "certificate-authority"
    )
    certificate = _material(user_file, user.client_certificate_data, user.client_certificate, "client-certificate")
    key = _material(user_file, user.client_key_data, user.client_key, "client-key")
    if bool(certificate) != bool(key):
        _fail(user_file, "a client certificate and its key must be given together")
    return Access(
        server=server,
        ca=ca,
        insecure=cluster.insecure_skip_tls_verify,
        server_name=cluster.tls_server_name,
        client_certificate=certificate,
        client_key=key,
        token="" if user.token_file else user.token,
        token_file=user_file.parent / user.token_file if user.token_file else None,
        exec=_exec(user_file, user.exec) if user.exec else None,
        exec_directory=user_file.parent.absolute(),
    )


def _server(path: Path, cluster: _Cluster, *, credential: bool) -> str:
    if cluster.proxy_url:
        _fail(path, "proxy-url is not supported: give the API server an address that is reachable directly")
    if cluster.insecure_skip_tls_verify and (cluster.certificate_authority or cluster.certificate_authority_data):
        _fail(path, "insecure-skip-tls-verify and certificate-authority exclude each other")
    url = urllib.parse.urlsplit(cluster.server)
    if url.scheme not in ("http", "https") or not url.hostname:
        _fail(path, f'server "{clip(cluster.server)}" is not a URL such as https://10.0.0.1:6443')
    if url.scheme == "http" and credential and url.hostname not in _LOOPBACK_HOSTS:
        _fail(path, f"server {clip(cluster.server)} would get the credential in clear text: use https")
    return cluster.server.rstrip("/")


def _refuse(path: Path, user: _User) -> None:
    if user.username or user.password:
        _fail(path, "username and password are not supported: API servers dropped basic authentication in 1.19")
    if user.auth_provider is not None:
        _fail(path, "auth-provider is not supported: Kubernetes removed it in 1.26; use an exec plugin or tokenFile")
    if user.impersonate:
        _fail(path, "impersonation (as) is not supported: a node acts under its own identity")


def _exec(path: Path, config: ExecConfig) -> ExecConfig:
    known = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
    if config.api_version not in known:
        _fail(path, f'exec: apiVersion "{clip(config.api_version)}" is none of {", ".join(known)}')
    if not config.command:
        _fail(path, "exec: command is empty")
    if config.interactive_mode == "Always":
        _fail(path, f"exec: {clip(config.command)} insists on a terminal (interactiveMode Always); a daemon has none")
    return config


def _material(path: Path, data: str, file: str, what: str) -> bytes:
    """Embedded data wins over a file, as in clientcmd."""
    if data:
        try:
            return base64.b64decode("".join(data.split()), validate=True)
        except (binascii.Error, ValueError) as exc:
            raise InvalidInput(f"kubeconfig {path}: {what}-data is not base64") from exc
    return _read(path, path.parent / file, what) if file else b""


def _read(origin: Path, file: Path, what: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as exc:
        raise InvalidInput(f"kubeconfig {origin}: cannot read {what} {file}: {exc.strerror}") from exc


def _fail(path: Path, reason: str) -> NoReturn:
    raise InvalidInput(f"kubeconfig {path}: {reason}")
