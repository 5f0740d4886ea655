"""A running machine whose network is gone: an event says so, nobody is sent to it, and it runs on."""

from tests.unit.pods.node import UID, Node, pod

FAULT = "the packet filter ended; delete the pod"
LOST = f"vm|Warning|NetworkUnavailable|The network of the virtual machine is gone: {FAULT}"
BACK = "vm|Normal|NetworkAvailable|The network of the virtual machine is back"


def told(node: Node) -> list[str]:
    return [event for event in node.recorder.events if "|Network" in event]


async def ready(node: Node, wanted: str) -> None:
    await node.until(lambda: node.condition("Ready").status == wanted)


async def test_a_lost_network_is_told_and_its_end_too(node: Node) -> None:
    node.bind(pod())
    await node.running()
    await ready(node, "True")
    node.machines.break_network(UID, "vm", FAULT)
    await ready(node, "False")
    [status] = node.statuses()
    assert (status.state.running is not None, status.ready, status.started, status.restart_count) == (
        True, False, True, 0,
    )  # fmt: skip
    assert told(node) == [LOST]
    node.machines.break_network(UID, "vm", "")
    await ready(node, "True")
    assert told(node) == [LOST, BACK]


async def test_a_lost_network_is_told_once_over_a_restart_of_the_daemon(node: Node) -> None:
    node.bind(pod())
    await node.running()
    node.machines.break_network(UID, "vm", FAULT)
    await ready(node, "False")
    await node.restart()
    await node.running()
    assert node.condition("Ready").status == "False"
    assert told(node) == [LOST]


async def test_a_network_that_came_back_while_no_daemon_ran_does_not_stay_lost(node: Node) -> None:
    node.bind(pod())
    await node.running()
    node.machines.break_network(UID, "vm", FAULT)
    await ready(node, "False")
    await node.kill()
    node.machines.break_network(UID, "vm", "")
    await node.restart()
    await ready(node, "True")
    assert told(node) == [LOST, BACK]


async def test_the_next_attempt_begins_with_a_network(node: Node) -> None:
    node.bind(pod())
    await node.running()
    node.machines.break_network(UID, "vm", FAULT)
    await ready(node, "False")
    node.machines.break_network(UID, "vm", "")
    node.machines.end(UID, "vm", 1)
    await node.started(1)
    await node.running()
    await ready(node, "True")
    assert node.known().container("vm").network_fault == ""
