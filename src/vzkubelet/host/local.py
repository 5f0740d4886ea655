"""This host, asked for real."""

import contextlib
import email.utils
import http.client
import importlib.metadata
import os
import platform
import pwd
import resource
import shutil
import socket
import ssl
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from vzkubelet import sysctl
from vzkubelet.errors import Forbidden, Unavailable, clip
from vzkubelet.host.probe import (
    COMMAND_TIMEOUT_S,
    NO_SUCH_PROGRAM,
    TIMED_OUT,
    DiskRoom,
    Facts,
    FileStatus,
    OpenFiles,
    Output,
)

ADMIN_PATH = "/usr/local/sbin:/usr/local/bin:/opt/homebrew/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/libexec:/usr/lib/qemu"
"""Where programs of administrators are, which the PATH of an ordinary user lacks."""
NETWORK_TIMEOUT_S = 5.0


class _Version(msgspec.Struct, frozen=True, rename="pascal"):
    version: str = ""


class LocalProbe:
    """`environment` is this process's own, as `config.process_environment` reads it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self.facts = Facts(
            system=sys.platform,
            machine=platform.machine().lower(),
            uid=os.getuid(),
            user=_user_name(),
            home=Path.home(),
            python=platform.python_version(),
            search_path=self._environment.get("PATH", ""),
            over_ssh="SSH_CONNECTION" in self._environment,
        )

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float = COMMAND_TIMEOUT_S,
        environment: Mapping[str, str] | None = None,
    ) -> Output:
        program = self.which(argv[0])
        if program is None:
            return Output(NO_SUCH_PROGRAM, "", f"{argv[0]}: no such program")
        try:
            done = subprocess.run(
                [program, *argv[1:]],
                env={**self._environment, "LC_ALL": "C", **(environment or {})},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Output(TIMED_OUT, "", f"{argv[0]} did not end within {timeout_s:g} s")
        except OSError as exc:
            return Output(NO_SUCH_PROGRAM, "", f"{argv[0]}: {exc.strerror}")
        return Output(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))

    def which(self, program: str) -> Path | None:
        found = shutil.which(program, path=f"{self.facts.search_path}:{ADMIN_PATH}")
        return Path(found) if found else None

    def read(self, path: Path) -> bytes:
        return path.read_bytes()

    def status(self, path: Path) -> FileStatus | None:
        try:
            found = path.stat()
        except OSError:
            return None
        return FileStatus(found.st_mode, found.st_uid)

    def can_use(self, path: Path) -> bool:
        return os.access(path, os.R_OK | os.W_OK)

    def sysctl(self, name: str) -> str | None:
        # In this process: a child that the system provides for both architectures need not be translated as we are.
        return _sysctl_by_name(name) if self.facts.system == "darwin" else None

    def room(self, path: Path) -> DiskRoom:
        existing = next(place for place in (path.absolute(), *path.absolute().parents) if os.access(place, os.F_OK))
        figures = os.statvfs(existing)
        return DiskRoom(figures.f_blocks * figures.f_frsize, figures.f_bavail * figures.f_frsize)

    def open_files(self) -> OpenFiles:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        return OpenFiles(_limit(soft), _limit(hard))

    def process_runs(self, pid: int) -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True  # somebody else's
        return True

    def package(self, name: str) -> str | None:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
        return None

    def time(self) -> float:
        return time.time()

    def port_taken(self, address: str, port: int) -> str:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((address, port))
                listener.listen(1)  # Linux lets two sockets be bound with SO_REUSEADDR as long as none listens
            except OSError as exc:
                return (exc.strerror or str(exc)).lower()
        return ""

    def server_time(self, url: str) -> float:
        parts = urllib.parse.urlsplit(url)
        try:
            with contextlib.closing(_connection(parts)) as connection:
                connection.request("GET", f"{parts.path}/version", headers={"Accept": "application/json"})
                date = connection.getresponse().getheader("Date")
        except (OSError, http.client.HTTPException) as exc:
            raise Unavailable(f"no answer from the API server {url}: {_reason(exc)}") from exc
        try:
            return email.utils.parsedate_to_datetime(date or "").timestamp()
        except ValueError as exc:
            raise Unavailable(f"the API server {url} does not say what time it is") from exc

    def docker_version(self, docker_host: str) -> str:
        scheme, _, place = docker_host.partition("://")
        try:
            with contextlib.closing(_docker_connection(scheme, place)) as connection:
                connection.request("GET", "/version", headers={"Host": "docker"})
                body = connection.getresponse().read()
            return msgspec.json.decode(body, type=_Version).version
        except PermissionError as exc:
            raise Forbidden(f"no permission to use the Docker engine at {docker_host}") from exc
        except (OSError, http.client.HTTPException, msgspec.DecodeError) as exc:
            raise Unavailable(f"no Docker engine answers at {docker_host}: {_reason(exc)}") from exc


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=NETWORK_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(NETWORK_TIMEOUT_S)
        self.sock.connect(self._path)


def _docker_connection(scheme: str, place: str) -> http.client.HTTPConnection:
    if scheme == "unix":
        return _UnixConnection(place)
    if scheme == "https":
        return http.client.HTTPSConnection(place, timeout=NETWORK_TIMEOUT_S)
    return http.client.HTTPConnection(place, timeout=NETWORK_TIMEOUT_S)


def _connection(url: urllib.parse.SplitResult) -> http.client.HTTPConnection:
    host = url.hostname or ""
    if url.scheme == "http":
        return http.client.HTTPConnection(host, url.port or 80, timeout=NETWORK_TIMEOUT_S)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(host, url.port or 443, timeout=NETWORK_TIMEOUT_S, context=context)


def _reason(exc: Exception) -> str:
    return clip(getattr(exc, "strerror", None) or str(exc) or type(exc).__name__).lower()


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's arbitrary user
        return str(os.getuid())


def _limit(value: int) -> int:
    return -1 if value == resource.RLIM_INFINITY else value


def _sysctl_by_name(name: str) -> str | None:
    """Integers of 4 and 8 bytes as decimal text; None for a name that the kernel does not know."""
    try:
        return sysctl_text(sysctl.read(name))
    except OSError:
        return None


def sysctl_text(raw: bytes) -> str:
    """A string ends with NUL and is printable; everything else of 4 or 8 bytes is an integer."""
    text = raw.removesuffix(b"\0")
    if raw.endswith(b"\0") and text and text.isascii() and text.decode().isprintable():
        return text.decode()
    return str(int.from_bytes(raw, sys.byteorder)) if len(raw) in (4, 8) else text.decode(errors="replace")
