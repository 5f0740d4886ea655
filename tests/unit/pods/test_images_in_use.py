"""Which images may not be removed, from the pods of a node in memory."""

from tests.unit.pods.node import UID, Node, pod
from vzkubelet.daemon.node_images import images_of

RUNNING = {"image-of-vm", "image-of-vm@sha256:0"}


def in_use(node: Node) -> set[str]:
    return set(images_of(node.supervisor.workers()))


async def test_what_waits_runs_or_restarts_is_in_use(node: Node) -> None:
    node.machines.pull.hold()
    node.bind(pod())
    await node.machines.pull.reached.wait()
    assert in_use(node) == {"image-of-vm"}
    node.machines.pull.release()
    await node.running()
    assert in_use(node) == RUNNING
    node.machines.end(UID, "vm", 1)
    await node.until(lambda: node.statuses()[0].restart_count == 1)
    assert in_use(node) == RUNNING


async def test_a_machine_that_has_ended_and_is_still_there_keeps_its_image(node: Node) -> None:
    node.bind(pod(policy="Never"))
    await node.running()
    node.machines.removal.hold()
    node.machines.end(UID, "vm", 0)
    await node.machines.removal.reached.wait()
    assert in_use(node) == RUNNING
    node.machines.removal.release()
    await node.phase("Succeeded")
    assert in_use(node) == set(), "nothing of its machine is left"


async def test_an_agent_that_has_just_started_knows_what_runs_before_it_heard_the_api_server(node: Node) -> None:
    """Hazard: it collects at its start, and removes the images of all running pods."""
    node.bind(pod())
    await node.running()
    await node.kill()
    node.supervisor = node._daemon()
    await node.supervisor.resume()
    assert in_use(node) == RUNNING
