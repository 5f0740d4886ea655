"""A pod's life on a node in memory: start, restarts, statuses and events, in virtual time."""

import asyncio
import itertools

import msgspec

from tests.unit.pods.node import EPOCH, UID, Node, pod
from vzkubelet import aio, errors
from vzkubelet.model import pod as api
from vzkubelet.pods import worker
from vzkubelet.podstate import events, record


async def test_plain_pod_runs_to_completion_with_the_kubelets_statuses_and_events(node: Node) -> None:
    node.bind(pod(policy="Never"))
    await node.running()
    assert node.condition("Ready").status == "True"
    assert node.api.pods[UID].status.pod_ip == "10.0.0.2"
    node.machines.end(UID, "vm", 0)
    await node.phase("Succeeded")
    assert node.api.phases() == ["Pending", "Running", "Succeeded"]
    [container] = node.statuses()
    assert container.state.terminated is not None
    assert (container.state.terminated.exit_code, container.state.terminated.reason) == (0, "Completed")
    assert (node.condition("Ready").reason, node.condition("PodReadyToStartContainers").status) == (
        "PodCompleted",
        "False",
    )
    assert node.recorder.events == [
        'vm|Normal|Pulling|Pulling image "image-of-vm"',
        node.recorder.events[1],
        "vm|Normal|Created|Container created",
        "vm|Normal|Started|Container started",
    ]
    assert node.recorder.events[1].startswith('vm|Normal|Pulled|Successfully pulled image "image-of-vm" in ')
    assert node.recorder.events[1].endswith(" including waiting). Image size: 4096 bytes.")
    assert node.machines.removed == ["vm"]
    assert node.volumes.owners == set()
    assert node.directories.of(UID).record_file.exists(), "its logs can still be read"


async def test_terminal_phase_is_told_only_when_nothing_runs_any_more(node: Node) -> None:
    node.bind(pod(policy="Never"))
    await node.running()
    node.machines.removal.hold()
    node.machines.end(UID, "vm", 0)
    await node.machines.removal.reached.wait()
    await node.until(lambda: node.statuses()[0].state.terminated is not None)
    assert node.api.pods[UID].status.phase == "Running"
    assert node.condition("Ready").reason == "PodCompleted"
    node.machines.removal.release()
    await node.phase("Succeeded")


async def test_image_that_is_present_is_not_pulled(node: Node) -> None:
    node.machines.images["image-of-vm"] = node.machines.registry["image-of-vm"]
    node.bind(pod())
    await node.running()
    text = 'Container image "image-of-vm" already present on machine and can be accessed by the pod'
    assert node.recorder.events[0] == f"vm|Normal|Pulled|{text}"
    assert node.machines.pull.passed == 0


async def test_side_car_starts_after_the_machines_address_is_known(node: Node) -> None:
    node.machines.place.hold()
    node.bind(pod("vm", "web"))
    await node.machines.place.reached.wait()
    await asyncio.sleep(5)
    assert not node.sidecars.pull.reached.is_set()
    node.machines.place.release()
    await node.running("vm", "web")
    assert node.sidecars.held[UID, "web"].state.started_at >= node.machines.held[UID, "vm"].state.started_at - 1


async def test_restarts_wait_ten_seconds_then_twenty(node: Node) -> None:
    node.bind(pod())
    started = []
    for attempt in range(4):
        await node.started(attempt)
        await node.until(lambda: isinstance(node.known().container("vm").state, record.Running))
        started.append(node.clock.time())
        node.machines.end(UID, "vm", 1)
    gaps = [later - earlier for earlier, later in itertools.pairwise(started)]
    assert [round(gap, -1) for gap in gaps] == [0, 10, 20]
    text = "vm|Warning|BackOff|Back-off restarting failed container vm in pod p_ns(u-1)"
    assert node.recorder.events.count(text) == 2
    await node.until(lambda: node.statuses()[0].state.waiting is not None)
    [container] = node.statuses()
    assert container.state.waiting is not None
    assert container.state.waiting.reason == "CrashLoopBackOff"
    assert container.state.waiting.message == "back-off 40s restarting failed container=vm pod=p_ns(u-1)"
    assert container.restart_count == 3
    assert node.api.pods[UID].status.phase == "Running"
    assert "Killing" not in node.recorder.reasons()


async def test_on_failure_ends_with_the_first_success(node: Node) -> None:
    node.bind(pod(policy="OnFailure"))
    await node.running()
    node.machines.end(UID, "vm", 3)
    await node.started(1)
    node.machines.end(UID, "vm", 0)
    await node.phase("Succeeded")
    last = node.statuses()[0].last_state.terminated
    assert last is not None
    assert last.exit_code == 3


async def test_failed_pull_backs_off_with_the_kubelets_events_and_recovers(node: Node) -> None:
    del node.machines.registry["image-of-vm"]
    node.bind(pod())
    await node.until(lambda: len(node.machines.logins) == 1)
    began = node.clock.time()
    await node.until(lambda: "BackOff" in node.recorder.reasons() and len(node.statuses()) == 1)
    assert node.recorder.events == [
        'vm|Normal|Pulling|Pulling image "image-of-vm"',
        'vm|Warning|Failed|Failed to pull image "image-of-vm": image-of-vm: not found',
        "vm|Warning|Failed|Error: ErrImagePull",
        'vm|Normal|BackOff|Back-off pulling image "image-of-vm"',
        "vm|Warning|Failed|Error: ImagePullBackOff",
    ]
    await node.until(lambda: len(node.machines.logins) == 2)
    assert 9 < node.clock.time() - began < 12
    node.machines.publish("image-of-vm")
    await node.running()
    assert node.statuses()[0].restart_count == 0


async def test_image_that_is_brought_by_hand_ends_the_back_off(node: Node) -> None:
    """Hazard: the pod waits for up to five minutes while its image lies on the node."""
    image = node.machines.registry.pop("image-of-vm")
    node.bind(pod())
    await node.until(lambda: len(node.machines.logins) == 4)
    await node.until(lambda: "BackOff" in node.recorder.reasons()[-3:])
    told = len(node.recorder.events)
    await asyncio.sleep(30)
    assert len(node.recorder.events) == told, "looking is told to nobody"
    assert len(node.machines.logins) == 4
    node.machines.images["image-of-vm"] = image
    began = node.clock.time()
    await node.running()
    assert node.clock.time() - began < 11
    assert len(node.machines.logins) == 4
    assert node.statuses()[0].restart_count == 0


async def test_missing_secret_is_told_before_a_machine_is_made(node: Node) -> None:
    source = api.EnvVarSource(secret_key_ref=api.KeySelector(name="s", key="k"))
    container = api.Container(name="vm", image="image-of-vm", env=[api.EnvVar(name="A", value_from=source)])
    bound = pod()
    node.bind(msgspec.structs.replace(bound, spec=msgspec.structs.replace(bound.spec, containers=[container])))
    await node.until(lambda: "Failed" in node.recorder.reasons())
    assert node.recorder.events[-1] == 'vm|Warning|Failed|Error: secret "s" not found'
    assert not node.machines.place.reached.is_set()
    await node.until(
        lambda: any(s.state.waiting and s.state.waiting.reason == "CreateContainerConfigError" for s in node.statuses())
    )
    node.objects.add_secret("ns", "s", k=b"v")
    await node.running()
    assert node.machines.held[UID, "vm"].spec.env == (("A", "v"),)


async def test_program_that_cannot_be_executed_counts_as_an_exit(node: Node) -> None:
    node.machines.launch.faults = [errors.NotFound('exec: "nope": no such file', reason="StartError")]
    node.bind(pod(policy="Never"))
    await node.phase("Failed")
    [container] = node.statuses()
    assert container.state.terminated is not None
    assert (container.state.terminated.exit_code, container.state.terminated.reason) == (128, "StartError")
    assert 'vm|Warning|Failed|Error: exec: "nope": no such file' in node.recorder.events


async def test_volumes_that_fail_are_told_and_tried_again(node: Node) -> None:
    text = 'MountVolume.SetUp failed for volume "v" : configmap "c" not found'
    node.volumes.setup.faults = [errors.NotFound(text, reason="FailedMount")]
    node.bind(pod())
    await node.running()
    assert node.recorder.events[0] == f"|Warning|FailedMount|{text}"


async def test_pod_that_does_not_fit_is_rejected_and_holds_nothing(node: Node) -> None:
    node.capacity = 1
    node.bind(pod())
    await node.running()
    node.bind(
        msgspec.structs.replace(pod(uid="u-2"), metadata=msgspec.structs.replace(pod(uid="u-2").metadata, name="q"))
    )
    await node.phase("Failed", "u-2")
    status = node.api.pods["u-2"].status
    text = "Pod was rejected: Node didn't have enough resource: pods, requested: 1, used: 1, capacity: 1"
    assert (status.reason, status.message) == ("OutOfpods", text)
    assert f"|Warning|OutOfpods|{text}" in node.recorder.events
    assert "u-2" not in node.machines.prepared
    node.delete(uid="u-2")
    await node.gone("u-2")
    assert node.api.deleted == ["u-2"]


async def test_rejection_needs_no_docker_engine(node: Node) -> None:
    node.capacity = 0
    for gate in (node.sidecars.lookup, node.sidecars.removal):
        gate.faults, gate.stays_broken = [errors.Unavailable("no engine")], True
    node.bind(pod("vm", "web"))
    await node.phase("Failed")
    node.delete()
    await node.gone()


async def test_active_deadline_ends_the_pod_at_its_time(node: Node) -> None:
    node.bind(pod(deadline_s=45))
    await node.running()
    await node.phase("Failed")
    assert 45 <= node.clock.time() - EPOCH < 48
    status = node.api.pods[UID].status
    text = "Pod was active on the node longer than the specified deadline"
    assert (status.reason, status.message) == ("DeadlineExceeded", text)
    assert node.recorder.events.count(f"|Normal|DeadlineExceeded|{text}") == 1
    assert "vm|Normal|Killing|Stopping container vm" in node.recorder.events


async def test_event_that_comes_with_a_time_out_is_not_dropped(node: Node) -> None:
    """It was taken from the queue and half applied when the time-out struck: its container was never watched."""
    of = pod()
    known = worker.first_record(of, EPOCH)
    asked = worker.Worker(
        node.world,
        node.directories.of(UID),
        of,
        known,
        gate=asyncio.Semaphore(1),
        resync_s=60.0,
        on_finished=lambda _: None,
    )
    asked.post(events.ContainerStarted("vm", 0, "memory://1", "image", EPOCH))
    await asked._take(0.0)
    assert asked.known.container("vm").state == record.Running(EPOCH)
    assert "vm" in asked._waiting
    await aio.cancel(*asked._waiting.values())


def _secured(changed: api.Pod, **container: object) -> api.Pod:
    [vm] = changed.spec.containers
    spec = msgspec.structs.replace(changed.spec, containers=[msgspec.structs.replace(vm, **container)])
    return msgspec.structs.replace(changed, spec=spec)


async def test_run_as_non_root_without_a_number_starts_nothing(node: Node) -> None:
    """A user's name in an image may be another name of root."""
    node.bind(_secured(pod(), security_context=api.SecurityContext(run_as_non_root=True)))
    await node.until(lambda: "Failed" in node.recorder.reasons() and len(node.statuses()) == 1)
    waiting = node.statuses()[0].state.waiting
    assert waiting is not None
    assert waiting.reason == "CreateContainerConfigError"
    assert waiting.message.startswith("container has runAsNonRoot and may run as root")
    assert (UID, "vm") not in node.machines.held


async def test_run_as_non_root_with_a_user_runs(node: Node) -> None:
    node.bind(_secured(pod(), security_context=api.SecurityContext(run_as_non_root=True, run_as_user=1000)))
    await node.running()


async def test_sub_path_expression_is_refused_and_not_taken_for_the_whole_volume(node: Node) -> None:
    bound = _secured(pod(), volume_mounts=[api.VolumeMount("v", "/v", sub_path_expr="$(NAME)")])
    spec = msgspec.structs.replace(bound.spec, volumes=[api.Volume(name="v", empty_dir=api.EmptyDirVolumeSource())])
    node.bind(msgspec.structs.replace(bound, spec=spec))
    await node.until(lambda: "Failed" in node.recorder.reasons() and len(node.statuses()) == 1)
    waiting = node.statuses()[0].state.waiting
    assert waiting is not None
    assert waiting.reason == "CreateContainerConfigError"
    assert (UID, "vm") not in node.machines.held
