"""Taking back everything that an agent left on this host: machines, side-cars, volumes, networks. Images stay."""

import contextlib

from vzkubelet import errors, files
from vzkubelet.config import Config
from vzkubelet.daemon.parts import Parts, StateRoot
from vzkubelet.daemon.standalone import local_pods, remove
from vzkubelet.model.identity import PodRef
from vzkubelet.model.pod import Pod
from vzkubelet.pods import local
from vzkubelet.pods.manifest import Manifest
from vzkubelet.pods.world import NodeFacts

NODE_STATE = "node"
"""Directory of the node agent's own state in the cache."""


async def run(config: Config) -> list[str]:
    """Stop and remove; returns what was removed, for people. Not while an agent runs on the same cache.

    Raises:
        Conflict: an agent holds the state.
    """
    removed = []
    for found in local_pods(config.cache_dir):
        await remove(config, found.pod.metadata.name)
        removed.append(f"pod {found.pod.metadata.name} (standalone)")
    root = StateRoot(config.cache_dir / NODE_STATE)
    if not root.path.exists():
        return removed
    with root.held():
        removed += await _reset(config, root)
    files.remove_tree(root.path)
    return removed


async def _reset(config: Config, root: StateRoot) -> list[str]:
    parts = Parts(config, root)
    try:
        await parts.open()
        facts = NodeFacts("", 0, 0)
        nothing = local.LocalObjects(Manifest(Pod()))
        world = parts.world(nothing, local.EventPrinter(), local.LocalStatus(), lambda: facts)
        uids = {*parts.directories.uids(), *await world.machines.pods(), *await world.volumes.pods()}
        with contextlib.suppress(errors.Unavailable):  # no engine, no side-cars
            uids.update(await world.sidecars.pods())
        for uid in sorted(uids):
            ref = PodRef("", "", uid)
            await world.machines.remove_pod(ref)
            with contextlib.suppress(errors.Unavailable):
                await world.sidecars.remove_pod(ref)
            await world.volumes.remove(uid)
        await parts.tear_down_network()
        return [f"pod {uid}" for uid in sorted(uids)]
    finally:
        await parts.close()
