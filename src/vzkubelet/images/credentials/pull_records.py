"""Which login opened which image, as kept on disk: the kubelet's ImagePulledRecord and ImagePullIntent (KEP-2535).

Below its root::

    salt                  random bytes; without them a hash of a login could be compared with hashes of guesses
    lock                  exclusive while a record is changed
    pulled/<hex>.json     one image; <hex> = SHA-256 of its kind and ID
    pulling/<hex>.json    one reference that is being pulled; what is left of it came in unknown circumstances

All methods block: they are for threads.
"""

import contextlib
import fcntl
import hashlib
import hmac
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from vzkubelet.files import children, read_if_present, write_atomic
from vzkubelet.model.docker_config import Candidate
from vzkubelet.ports import ImageKind

_log = logging.getLogger(__name__)
_SALT_BYTES = 32
MATCHED_LIMIT = 100
"""From so many secrets on, those that only match a record are no more added to it (kubelet
``writeRecordWhileMatchingLimit``)."""


class PulledSecret(msgspec.Struct, frozen=True, rename="camel", order=True):
    namespace: str
    name: str
    uid: str
    credential_hash: str
    """Of the login in it, salted."""

    def is_same_secret(self, other: "PulledSecret") -> bool:
        return (self.namespace, self.name, self.uid) == (other.namespace, other.name, other.uid)


class Credentials(msgspec.Struct, frozen=True, rename="camel"):
    """What opens an image in one repository."""

    kubernetes_secrets: tuple[PulledSecret, ...] = ()
    node_pods_accessible: bool = False
    """Every pod of the node may use it: it was pulled without a login, or with the node's own."""

    def merged(self, other: "Credentials") -> "Credentials":
        """A secret that changed has its new hash; what every pod may use needs no secrets."""
        if self.node_pods_accessible or other.node_pods_accessible:
            return Credentials(node_pods_accessible=True)
        newer = other.kubernetes_secrets
        kept = [old for old in self.kubernetes_secrets if not any(old.is_same_secret(new) for new in newer)]
        return Credentials(tuple(sorted([*kept, *newer])))


class PulledRecord(msgspec.Struct, frozen=True, rename="camel"):
    """An image that was pulled for a pod. Without credentials it opens to nobody until a pull has proved them."""

    kind: ImageKind
    image_id: str
    last_updated_time: datetime
    credential_mapping: dict[str, Credentials] = {}
    """By repository."""


class Intent(msgspec.Struct, frozen=True):
    """A reference that is being pulled, or was when its process died."""

    kind: ImageKind
    image: str


class PullRecords:
    """The records of one store of images, for all processes that pull into it."""

    def __init__(self, root: Path, now: Callable[[], float] = time.time) -> None:
        """Touches nothing; directories are made when something is written."""
        self._root = root
        self._now = now
        self._pulled = root / "pulled"
        self._pulling = root / "pulling"

    def secret(self, candidate: Candidate) -> PulledSecret | None:
        """What is kept of a login; None for the node's own. Makes the salt when there is none."""
        if candidate.secret is None:
            return None
        login, at = candidate.login, candidate.secret
        content = msgspec.json.encode((login.username, login.password, login.identity_token))
        digest = hmac.new(self._salt(), content, hashlib.sha256).hexdigest()
        return PulledSecret(at.namespace, at.name, at.uid, digest)

    def pulled(self, kind: ImageKind, image_id: str) -> PulledRecord | None:
        """Raises ValueError: a record that cannot be read; whoever meets it proves its credentials again."""
        content = read_if_present(self._pulled_file(kind, image_id))
        if content is None:
            return None
        try:
            return msgspec.json.decode(content, type=PulledRecord)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise ValueError(f"the record of {image_id} cannot be read: {exc}") from exc

    def add(self, kind: ImageKind, image_id: str, repository: str, credentials: Credentials | None) -> None:
        """Add to what opens an image; None = it came in unknown circumstances. The record is new for `remove` even
        when it says the same."""
        with self._locked():
            try:
                record = self.pulled(kind, image_id)
            except ValueError as exc:
                _log.warning("%s; it is begun anew", exc)
                record = None
            mapping = {} if record is None else record.credential_mapping
            if credentials is not None:
                before = mapping.get(repository, Credentials())
                mapping = {**mapping, repository: before.merged(credentials)}
            self._write(PulledRecord(kind, image_id, datetime.fromtimestamp(self._now(), tz=UTC), mapping))

    def is_intended(self, intent: Intent) -> bool:
        return self._intent_file(intent).exists()

    def intend(self, intent: Intent) -> None:
        self._make_root()
        write_atomic(self._intent_file(intent), msgspec.json.encode(intent))

    def forget_intent(self, intent: Intent) -> None:
        self._intent_file(intent).unlink(missing_ok=True)

    def intents(self) -> list[Intent]:
        """All that can be read."""
        found = []
        for name in children(self._pulling):
            with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
                found.append(msgspec.json.decode(read_if_present(self._pulling / name) or b"", type=Intent))
        return found

    def records(self) -> list[PulledRecord]:
        """All that can be read: one that cannot may be of an image that is here, and it opens nothing."""
        found = []
        for name in children(self._pulled):
            with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
                found.append(msgspec.json.decode(read_if_present(self._pulled / name) or b"", type=PulledRecord))
        return found

    def remove(self, record: PulledRecord) -> None:
        """Forget an image that is gone, unless its record is newer than this."""
        with self._locked(), contextlib.suppress(ValueError):
            if self.pulled(record.kind, record.image_id) == record:
                self._pulled_file(record.kind, record.image_id).unlink(missing_ok=True)

    def _write(self, record: PulledRecord) -> None:
        write_atomic(self._pulled_file(record.kind, record.image_id), msgspec.json.encode(record))

    def _pulled_file(self, kind: ImageKind, image_id: str) -> Path:
        return self._pulled / f"{_hex(kind, image_id)}.json"

    def _intent_file(self, intent: Intent) -> Path:
        return self._pulling / f"{_hex(intent.kind, intent.image)}.json"

    def _salt(self) -> bytes:
        path = self._root / "salt"
        salt = read_if_present(path)
        if salt is None or len(salt) < _SALT_BYTES:
            with self._locked():
                salt = read_if_present(path)
                if salt is None or len(salt) < _SALT_BYTES:
                    salt = secrets.token_bytes(_SALT_BYTES)
                    write_atomic(path, salt)
        return salt

    def _make_root(self) -> None:
        """Before what is below it, which would make it for everybody's eyes."""
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._make_root()
        descriptor = os.open(self._root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _hex(kind: ImageKind, name: str) -> str:
    return hashlib.sha256(f"{kind} {name}".encode()).hexdigest()
