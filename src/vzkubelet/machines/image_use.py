"""That a machine's disk refers to an image by its name, so that the image's file stays as long as the machine does.

In the image's directory of users (`ports.MachineImage.users`) lie symbolic links to what refers to it. The machine's
directory has one back, so that a machine that goes takes its links along; what a crash leaves of them leads nowhere,
and whoever keeps the images sweeps it.
"""

import contextlib
import hashlib
import os
import secrets
from pathlib import Path

from vzkubelet.files import STAGING_PREFIX

BACK = "image-users"
"""In a machine's directory: the link to the directory with the links to it."""


def register(users: Path, base: Path) -> None:
    """Let a link in `users` lead to `base`, a file in a machine's directory. Raises OSError."""
    staged = users / f"{STAGING_PREFIX}{secrets.token_hex(4)}"
    staged.symlink_to(relative(base, users))
    staged.replace(users / _name(base.parent))


def remember(users: Path, directory: Path) -> None:
    """Let the machine in `directory` know where its links are. Raises OSError."""
    (directory / BACK).symlink_to(relative(users, directory))


def forget(directory: Path, place: Path) -> None:
    """Remove the link to the machine that lies in `directory` and was registered as lying at `place`, if there is one.

    For who has the machine locked. What cannot be removed is left to be swept.
    """
    with contextlib.suppress(OSError):
        ((directory / BACK).resolve(strict=True) / _name(place)).unlink(missing_ok=True)


def relative(target: Path, directory: Path) -> str:
    """The name of `target` as seen from `directory`: right wherever the cache directory is moved or mounted."""
    # The target itself may not be there yet, or be a link that is to be followed anew each time.
    return os.path.relpath(target.parent.resolve() / target.name, directory.resolve())


def _name(directory: Path) -> str:
    """Tells a person the machine, and is the same when that is made again."""
    place = hashlib.sha256(os.fsencode(directory.absolute())).hexdigest()[:8]
    return f"{directory.name}.{place}"
