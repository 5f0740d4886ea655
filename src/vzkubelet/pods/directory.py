"""What is kept of one pod on disk, every file named once.

``<root>/<uid>/pod.json`` the pod as last seen, ``record.json`` what podstate knows, ``containers/<name>.json`` what the
machine runtime knows, ``logs/<name>/<attempt>.log`` in CRI format. Environment values are secrets, so all of it is
readable by the agent alone.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from vzkubelet import files
from vzkubelet.errors import Integrity, Unavailable
from vzkubelet.model import pod as api
from vzkubelet.podstate import record

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PodDirectory:
    path: Path

    @property
    def pod_file(self) -> Path:
        return self.path / "pod.json"

    @property
    def record_file(self) -> Path:
        return self.path / "record.json"

    def container_file(self, container: str) -> Path:
        return self.path / "containers" / f"{container}.json"

    def log_directory(self, container: str) -> Path:
        return self.path / "logs" / container

    def log_file(self, container: str, attempt: int) -> Path:
        return self.log_directory(container) / f"{attempt}.log"

    def save_pod(self, pod: api.Pod) -> None:
        files.write_atomic(self.pod_file, msgspec.json.encode(pod))

    def save_record(self, known: record.Pod) -> None:
        files.write_atomic(self.record_file, msgspec.json.encode(known))

    def load_pod(self) -> api.Pod | None:
        """Raises Integrity for a file that is damaged."""
        return read_json(self.pod_file, api.Pod)

    def load_record(self) -> record.Pod | None:
        """Raises Integrity for a file that is damaged."""
        return read_json(self.record_file, record.Pod)

    def remove(self) -> None:
        """Raises Unavailable: the directory cannot be removed now."""
        try:
            files.remove_tree(self.path)
        except OSError as exc:
            raise Unavailable(f"{self.path} cannot be removed: {exc.strerror}") from exc


def read_json(path: Path, type_: type[T]) -> T | None:
    """The decoded file, None when there is none.

    Raises:
        Integrity: the file is damaged; the message names it.
    """
    data = files.read_if_present(path)
    if data is None:
        return None
    try:
        return msgspec.json.decode(data, type=type_)
    except msgspec.MsgspecError as exc:
        raise Integrity(f"{path} is damaged: {exc}") from exc


@dataclass(frozen=True, slots=True)
class PodDirectories:
    """All pods under one root."""

    root: Path

    def of(self, uid: str) -> PodDirectory:
        return PodDirectory(self.root / uid)

    def uids(self) -> list[str]:
        return files.children(self.root)
