"""A real OCI registry on loopback: Debian's docker-registry with its blobs in a directory."""

import ctypes
import http.client
import random
import shutil
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from tests.cluster.ports import free_port
from tests.cluster.processes import ChildProcess, ComponentFailed, Lifetime, ProcessRecord, spawn, wait_until

START_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class BasicAuth:
    """The one user that the registry knows."""

    username: str
    password: str


class Registry:
    """A registry whose files are in `directory`; its port stays the same over restarts.

    `extra` is merged into the configuration's top level, for example a token `auth` section.
    """

    def __init__(
        self,
        directory: Path,
        *,
        basic_auth: BasicAuth | None = None,
        extra: Mapping[str, Any] | None = None,
        port: int | None = None,
        lifetime: Lifetime = Lifetime.WITH_PARENT,
        on_start: Callable[[ProcessRecord], None] = lambda _: None,
    ) -> None:
        self.directory = directory.absolute()
        self.basic_auth = basic_auth
        self.port = port or free_port()
        self._extra = dict(extra or {})
        self._lifetime = lifetime
        self._on_start = on_start
        self._child: ChildProcess | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def host(self) -> str:
        """`127.0.0.1:<port>`, the registry part of an image reference."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    @property
    def log(self) -> Path:
        """The registry's own log, one access line per request."""
        return self.directory / "registry.log"

    def start(self) -> None:
        """Serve; returns when the registry answers.

        Raises: ComponentFailed with the end of the log.
        """
        program = shutil.which("docker-registry")
        if not program:
            raise ComponentFailed(
                "docker-registry is not installed: run `make setup`, or apt-get install docker-registry"
            )
        configuration = self._write_configuration()
        self._child = spawn(
            "registry", [program, "serve", configuration], log=self.log, lifetime=self._lifetime, stop_grace_s=3.0
        )
        self._on_start(self._child.record)
        try:
            wait_until(self._answers, self._child, what="it answered on /v2/", timeout_s=START_TIMEOUT_S)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop serving; the content stays."""
        if self._child:
            self._child.stop()
            self._child = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def blob_path(self, digest: str) -> Path:
        """The file that holds a stored blob or manifest, `sha256:...`."""
        algorithm, _, value = digest.partition(":")
        return self.directory / "data/docker/registry/v2/blobs" / algorithm / value[:2] / value / "data"

    def corrupt_blob(self, digest: str, offset: int = 0) -> None:
        """Flip all bits of one byte of a stored blob: its length stays, its digest is wrong from now on."""
        with self.blob_path(digest).open("r+b") as blob:
            blob.seek(offset)
            byte = blob.read(1)
            if not byte:
                raise ValueError(f"blob {digest} has no byte at offset {offset}")
            blob.seek(offset)
            blob.write(bytes([byte[0] ^ 0xFF]))

    def truncate_blob(self, digest: str, size_bytes: int) -> None:
        """Cut a stored blob: the registry serves it short."""
        with self.blob_path(digest).open("r+b") as blob:
            blob.truncate(size_bytes)

    def _write_configuration(self) -> Path:
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        configuration: dict[str, Any] = {
            "version": 0.1,
            "log": {"level": "info", "accesslog": {"disabled": False}},
            # No blob descriptor cache: a blob that a test corrupts on disk must be seen as it is.
            "storage": {"filesystem": {"rootdirectory": str(self.directory / "data")}, "delete": {"enabled": True}},
            "http": {"addr": self.host, "secret": "".join(random.choices(string.ascii_letters, k=32))},
        }
        if self.basic_auth:
            passwords = self.directory / "htpasswd"
            passwords.write_text(f"{self.basic_auth.username}:{_bcrypt(self.basic_auth.password)}\n")
            configuration["auth"] = {"htpasswd": {"realm": "test registry", "path": str(passwords)}}
        path = self.directory / "config.yml"
        path.write_text(yaml.safe_dump({**configuration, **self._extra}))
        return path

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(self.host, timeout=5)
        try:
            connection.request("GET", "/v2/")
            return connection.getresponse().status in (200, 401)
        except OSError:
            return False
        finally:
            connection.close()


def _bcrypt(password: str) -> str:
    """Hash as htpasswd -B does; the registry reads nothing but bcrypt.

    glibc systems carry it in libcrypt (crypt(5), prefix $2b$); Python's own binding went away in 3.13.
    """
    library = ctypes.CDLL("libcrypt.so.1")
    library.crypt.restype = ctypes.c_char_p
    salt = "".join(random.choices("./" + string.ascii_letters + string.digits, k=21)) + "."
    hashed: bytes | None = library.crypt(password.encode(), f"$2b$05${salt}".encode())
    if not hashed or not hashed.startswith(b"$2b$"):
        raise ComponentFailed("libcrypt on this machine has no bcrypt")
    return hashed.decode()
