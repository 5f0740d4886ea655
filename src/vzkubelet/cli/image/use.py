"""Which images of this host are in use, as far as others than the agent can tell: what machines were made of."""

from collections.abc import Iterator
from pathlib import Path

from vzkubelet import files
from vzkubelet.config import Config
from vzkubelet.errors import Error
from vzkubelet.machines.directory import MachineRoot

_NODE, _STANDALONE, _MACHINES = "node", "standalone", "machines"
"""Below the cache directory: the agent's state, that of pods of `run`, and their machines."""


def images_in_use(settings: Config) -> frozenset[str]:
    """References and image IDs of the machines of this host and of the list of images that are to be here."""
    states = (settings.cache_dir / _NODE, *(settings.cache_dir / _STANDALONE / name for name in _pods(settings)))
    return frozenset((*settings.images.prepull, *(name for state in states for name in _of_machines(state))))


def _pods(settings: Config) -> list[str]:
    return files.children(settings.cache_dir / _STANDALONE)


def _of_machines(state: Path) -> Iterator[str]:
    root = MachineRoot(state / _MACHINES)
    for uid in root.uids():
        try:
            record = root.machine(uid).read_record()
        except Error:  # being removed, or damaged: the agent's business
            continue
        yield record.image
        if record.image_id:
            yield record.image_id
