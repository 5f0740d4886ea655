"""Trust on first use: the key that a guest shows at its first login is the only one it may show from then on."""

from pathlib import Path

import asyncssh

from vzkubelet.errors import Conflict
from vzkubelet.files import write_atomic


class RememberedKey:
    """The host key of one guest, in one file (a public key in OpenSSH's format), for the life of its clone."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._key: asyncssh.SSHKey | None = None

    def load(self) -> asyncssh.SSHKey | None:
        """The remembered key; None before the first login. Raises Conflict for a file that holds none."""
        if self._key is None and self._path.exists():
            try:
                self._key = asyncssh.import_public_key(self._path.read_bytes())
            except (asyncssh.KeyImportError, OSError) as exc:
                raise Conflict(
                    f"{self._path} holds no SSH host key ({exc}); remove it to trust the guest's key once more"
                ) from exc
        return self._key

    def remember(self, key: asyncssh.SSHKey) -> None:
        """Keep the key of a guest that has let us in; does nothing when one is kept."""
        if self.load() is None:
            write_atomic(self._path, key.export_public_key("openssh"))
            self._key = key

    def changed(self, guest: str) -> Conflict:
        return Conflict(
            f"the SSH host key of guest {guest} is not the one remembered in {self._path}: another machine answers at "
            f"this address, or the guest made new keys; remove the file if that was intended"
        )
