"""A slow pull on a node in memory: what the API server hears of it."""

import asyncio

from tests.unit.pods.node import UID, Node, pod
from vzkubelet import ports
from vzkubelet.podstate import record

GIB = 2**30


def message(node: Node) -> str:
    statuses = node.statuses()
    return statuses[0].state.waiting.message if statuses and statuses[0].state.waiting else ""


async def pull_for(node: Node, seconds: int, *, per_s: int = 20) -> None:
    """The pull that is held reports so long, `per_s` times a second."""
    await node.machines.pull.reached.wait()
    assert node.machines.progress is not None
    for step in range(seconds * per_s):
        node.machines.progress(ports.PullProgress(step * GIB // (seconds * per_s), GIB))
        await asyncio.sleep(1 / per_s)


async def test_a_waiting_container_tells_how_far_its_pull_is(node: Node) -> None:
    node.machines.pull.hold()
    node.bind(pod())
    await pull_for(node, 20)
    told = message(node)
    assert told.startswith("Pulling 0.")
    assert told.endswith("s left")
    assert " of 1.0 GiB, 5" in told
    [waiting] = [status.state.waiting for status in node.statuses()]
    assert waiting is not None
    assert waiting.reason == "ContainerCreating"
    node.machines.pull.release()
    await node.running()


async def test_a_pull_of_half_an_hour_floods_neither_the_api_server_nor_the_events(node: Node) -> None:
    """Hazard: each block of a 100 GB image becomes a write of the API server."""
    node.machines.pull.hold()
    node.bind(pod())
    await pull_for(node, 1800, per_s=1)
    writes = len(node.api.history)
    assert 300 < writes < 1800 / 4
    pulling = [event for event in node.recorder.events if "|Pulling|Pulling " in event and " of 1.0 GiB" in event]
    assert 4 < len(pulling) < 10
    node.machines.pull.release()
    await node.running()


async def test_after_the_pull_its_progress_is_gone(node: Node) -> None:
    """Hazard: a pod whose guest boots for minutes shows the last number of a pull that is over."""
    node.machines.pull.hold()
    node.machines.place.hold()
    node.bind(pod())
    await pull_for(node, 20)
    node.machines.pull.release()
    await node.machines.place.reached.wait()
    await node.until(lambda: message(node) == "")
    node.machines.place.release()
    await node.running()


async def test_a_daemon_that_restarts_in_a_pull_begins_a_new_count(node: Node) -> None:
    node.machines.pull.hold()
    node.bind(pod())
    await pull_for(node, 20)
    await node.restart()
    assert node.known(UID).container("vm").state == record.Waiting(message=message(node))
    node.machines.pull.release()
    await node.running()
