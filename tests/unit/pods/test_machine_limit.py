"""The hypervisor's limit of machines: a pod too many waits for a slot, and everybody is told why."""

from tests.unit.pods.node import UID, Node, pod
from vzkubelet import errors
from vzkubelet.pods.machine_limit import FORGOTTEN_AFTER_S, MachineLimit

REFUSAL = errors.Exhausted("two macOS guests run; delete one", reason=errors.MACHINE_LIMIT_REASON)


async def test_a_pod_without_a_slot_waits_longer_each_time_and_starts_when_there_is_one(node: Node) -> None:
    node.machines.place.faults = [REFUSAL]
    node.machines.place.stays_broken = True
    began = node.clock.time()
    node.bind(pod(policy="Never"))
    await node.until(lambda: node.clock.time() - began > 200)
    assert node.api.pods[UID].status.phase == "Pending"
    [container] = node.statuses()
    assert container.state.waiting is not None
    assert (container.state.waiting.reason, container.state.waiting.message) == ("VirtualMachineLimit", str(REFUSAL))
    refused = [event for event in node.recorder.events if event.startswith("vm|Warning|")]
    assert set(refused) == {"vm|Warning|VirtualMachineLimit|two macOS guests run; delete one"}
    assert 4 <= len(refused) <= 6, "after 0, 10, 30, 70, 130 and 190 seconds"
    node.machines.place.faults.clear()
    await node.running()
    assert node.clock.time() - began < 300
    assert node.known().container("vm").limit_back_off.delay_s == 0
    assert node.statuses()[0].restart_count == 0


async def test_the_wait_for_a_slot_survives_a_restart_of_the_daemon(node: Node) -> None:
    node.machines.place.faults = [REFUSAL]
    node.bind(pod())
    await node.until(lambda: node.known().container("vm").limit_back_off.delay_s > 0)
    before = node.known().container("vm").limit_back_off
    await node.restart()
    assert node.known().container("vm").limit_back_off == before
    await node.running()


async def test_a_pod_that_waits_for_a_slot_can_be_deleted(node: Node) -> None:
    node.machines.place.faults = [REFUSAL]
    node.machines.place.stays_broken = True
    node.bind(pod())
    await node.until(lambda: bool(node.statuses()) and node.statuses()[0].state.waiting is not None)
    node.delete()
    await node.gone()
    assert node.leftovers() == []


def test_only_changes_are_told() -> None:
    limit, told = MachineLimit(), []
    limit.on_change = lambda: told.append(limit.message)
    limit.freed("darwin")
    limit.reached("a", "darwin")
    limit.reached("a", "darwin")
    limit.reached("b", "darwin")
    limit.freed("darwin")
    assert told == ["a", "b", ""]


def test_a_linux_guest_that_starts_or_ends_frees_no_slot_of_macos_guests() -> None:
    limit, told = MachineLimit(), []
    limit.on_change = lambda: told.append(limit.message)
    limit.reached("two macOS guests run", "darwin")
    limit.freed("linux")
    assert limit.message == "two macOS guests run"
    limit.reached("no more Linux guests either", "linux")
    limit.freed("linux")
    assert limit.message == "two macOS guests run"
    limit.freed("darwin")
    assert told == ["two macOS guests run", ""]


class Now:
    def __init__(self) -> None:
        self.at = 0.0

    def time(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


def test_a_limit_is_forgotten_when_nobody_is_refused_any_more() -> None:
    """The pod that was refused is gone, and so may be the machine of another program that had the slot."""
    now = Now()
    limit = MachineLimit(now)
    limit.reached("full", "darwin")
    now.at = FORGOTTEN_AFTER_S - 1
    limit.reached("full", "darwin")
    now.at += FORGOTTEN_AFTER_S - 1
    assert limit.message == "full"
    now.at += 2
    assert limit.message == ""
