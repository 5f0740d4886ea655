"""What the kubelet API sees of the pods: the kubelet's texts for logs that are not there, the attempt that is meant."""

import pytest

from tests.unit.pods.node import UID, Node, pod
from vzkubelet import errors
from vzkubelet.model.logs import LogOptions
from vzkubelet.pods.view import PodsView
from vzkubelet.podstate import record
from vzkubelet.ports import ExecRequest


async def log(node: Node, previous: bool = False, container: str = "vm", name: str = "p") -> str:
    view = PodsView(node.world, node.supervisor)
    lines = [e.data.decode() async for e in view.logs("ns", name, None, container, previous, LogOptions())]
    return "\n".join(lines)


async def refused(node: Node, previous: bool = False) -> str:
    with pytest.raises(errors.InvalidInput) as caught:
        await log(node, previous)
    return caught.value.message


async def test_container_that_has_not_started(node: Node) -> None:
    node.machines.pull.hold()
    node.bind(pod())
    await node.machines.pull.reached.wait()
    who = 'container "vm" in pod "p" is waiting to start: '
    assert await refused(node) == who + "ContainerCreating"
    assert await refused(node, previous=True) == 'previous terminated container "vm" in pod "p" not found'
    node.machines.pull.faults = [errors.Unavailable("registry down")]
    node.machines.pull.release()
    await node.until(lambda: "BackOff" in node.recorder.reasons())
    await node.until(lambda: node.known().container("vm").state.reason == "ImagePullBackOff")  # type: ignore[union-attr]
    assert await refused(node) == who + "trying and failing to pull image"


async def test_which_attempt_is_meant(node: Node) -> None:
    node.bind(pod())
    await node.running()
    assert await log(node) == "vm 0"
    node.machines.end(UID, "vm", 1)
    await node.until(lambda: node.known().container("vm").restart_count == 1)
    assert (await log(node), await log(node, previous=True)) == ("vm 1", "vm 0")
    node.machines.end(UID, "vm", 1)
    await node.until(lambda: isinstance(node.known().container("vm").state, record.Waiting))
    assert (await log(node), await log(node, previous=True)) == ("vm 1", "vm 1")


async def test_what_does_not_exist(node: Node) -> None:
    with pytest.raises(errors.NotFound, match="pod does not exist"):
        await log(node)
    node.bind(pod())
    await node.running()
    with pytest.raises(errors.NotFound, match='container "other" not found in pod "p"'):
        await log(node, container="other")


async def test_exec_needs_a_running_container(node: Node) -> None:
    node.bind(pod(policy="Never"))
    await node.running()
    view, request = PodsView(node.world, node.supervisor), ExecRequest(("true",))
    assert (await view.exec("ns", "p", UID, "vm", request, None)).code == 0  # type: ignore[arg-type]
    node.machines.end(UID, "vm", 0)
    await node.phase("Succeeded")
    with pytest.raises(errors.NotFound, match="container not found"):
        await view.exec("ns", "p", UID, "vm", request, None)  # type: ignore[arg-type]
    [shown] = view.pods()
    assert shown.status.phase == "Succeeded"
    assert await view.figures() == []
