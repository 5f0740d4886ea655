import dataclasses

import msgspec
import pytest

from vzkubelet.model.meta import ObjectMeta
from vzkubelet.model.node import Node, NodeCondition, NodeStatus, Taint
from vzkubelet.model.timestamp import from_epoch
from vzkubelet.node import identity as identities
from vzkubelet.node import status
from vzkubelet.node.facts import Disk, Host, Readings
from vzkubelet.node.identity import Identity

NOW = 1_800_000_000.0
GIB = 1 << 30
MAC = Host(
    operating_system="darwin",
    architecture="arm64",
    os_image="macOS 15.4",
    kernel_version="24.4.0",
    machine_id="m",
    system_uuid="s",
    boot_id="b",
    booted_at=NOW - 100,
    cpus=10,
    memory_bytes=32 * GIB,
)
MINE = Identity(
    name="mac-1",
    address="10.0.0.7",
    port=10250,
    runtime_version="vz://15.4",
    host=MAC,
    taints=(Taint(key="virtual-kubelet.io/provider", value="macOS-vz", effect="NoSchedule"),),
)
PLENTY = Readings(8 * GIB, Disk(100 * GIB, 50 * GIB, 50 * GIB, 1000, 900))


def computed(
    identity: Identity = MINE,
    readings: Readings = PLENTY,
    faults: tuple[str, ...] = (),
    before: NodeStatus | None = None,
    now: float = NOW,
) -> NodeStatus:
    under = status.pressure(readings, status.Pressure(), now)
    wanted = status.conditions(under, faults, now)
    return status.compute(identity, readings, wanted, before or NodeStatus(), now)


def test_a_mac_says_what_it_is() -> None:
    got = computed()
    assert got.capacity == {
        "cpu": "10",
        "memory": f"{32 * 1024 * 1024}Ki",
        "pods": "110",
        "ephemeral-storage": f"{100 * 1024 * 1024}Ki",
    }
    assert got.allocatable == got.capacity
    assert [(a.type, a.address) for a in got.addresses or []] == [("InternalIP", "10.0.0.7"), ("Hostname", "mac-1")]
    assert got.daemon_endpoints.kubelet_endpoint.port == 10250
    assert (got.node_info.operating_system, got.node_info.architecture) == ("darwin", "arm64")
    assert got.node_info.container_runtime_version == "vz://15.4"


def test_the_version_is_one_that_version_parsers_take() -> None:
    core, _, rest = status.KUBELET_VERSION.partition("-")
    assert [part.isdigit() for part in core.removeprefix("v").split(".")] == [True] * 3
    assert rest.startswith("vz.")


def test_sizes_can_be_set() -> None:
    small = dataclasses.replace(MINE, cpu_milli=2500, memory_bytes=4 * GIB, max_pods=2)
    got = computed(small)
    assert got.capacity is not None
    assert (got.capacity["cpu"], got.capacity["memory"], got.capacity["pods"]) == ("2500m", "4194304Ki", "2")


def test_a_healthy_node_has_the_kubelets_conditions_with_ready_last() -> None:
    got = [(c.type, c.status, c.reason) for c in computed().conditions or []]
    assert got == [
        ("MemoryPressure", "False", "KubeletHasSufficientMemory"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure"),
        ("PIDPressure", "False", "KubeletHasSufficientPID"),
        ("Ready", "True", "KubeletReady"),
    ]


@pytest.mark.parametrize(
    ("faults", "message"),
    [(("docker is down",), "docker is down"), (("a", "b"), "[a, b]")],
)
def test_faults_make_the_node_not_ready_with_their_text(faults: tuple[str, ...], message: str) -> None:
    ready = status.find(computed(faults=faults).conditions, "Ready")
    assert ready is not None
    assert (ready.status, ready.reason, ready.message) == ("False", "KubeletNotReady", message)


@pytest.mark.parametrize(
    ("readings", "pressed"),
    [
        (PLENTY, set()),
        (Readings(99 << 20, PLENTY.disk), {"MemoryPressure"}),
        (Readings(8 * GIB, Disk(100 * GIB, 9 * GIB, 91 * GIB, 1000, 900)), {"DiskPressure"}),
        (Readings(8 * GIB, Disk(100 * GIB, 50 * GIB, 50 * GIB, 1000, 40)), {"DiskPressure"}),
        (Readings(8 * GIB, Disk(100 * GIB, 50 * GIB, 50 * GIB, 0, 0)), set()),
    ],
)
def test_pressure_is_read_from_the_host(readings: Readings, pressed: set[str]) -> None:
    conditions = computed(readings=readings).conditions or []
    assert {c.type for c in conditions if c.type.endswith("Pressure") and c.status == "True"} == pressed


def test_a_pressure_lasts_five_minutes_beyond_its_end() -> None:
    short = Readings(0, PLENTY.disk)
    under = status.pressure(PLENTY, status.pressure(short, status.Pressure(), NOW), NOW + 10)
    assert status.conditions(under, (), NOW + 299)[0].status == "True"
    assert status.conditions(under, (), NOW + 301)[0].status == "False"


def test_transition_times_move_only_with_the_status() -> None:
    first = computed()
    second = computed(before=first, now=NOW + 50)
    third = computed(faults=("x",), before=second, now=NOW + 60)
    ready = [status.find(s.conditions, "Ready") for s in (first, second, third)]
    assert [c.last_transition_time for c in ready if c] == [from_epoch(NOW), from_epoch(NOW), from_epoch(NOW + 60)]
    assert [c.last_heartbeat_time for c in ready if c] == [from_epoch(NOW), from_epoch(NOW + 50), from_epoch(NOW + 60)]


def test_a_heartbeat_alone_is_no_change() -> None:
    first = computed()
    assert not status.has_changed(first, computed(before=first, now=NOW + 50))
    assert status.has_changed(first, computed(faults=("x",), before=first, now=NOW + 50))
    assert status.has_changed(computed(faults=("x",)), computed(faults=("y",)))


def test_a_quantity_that_was_rewritten_by_the_api_server_is_no_change() -> None:
    first = computed()
    assert first.capacity is not None
    rewritten = msgspec.structs.replace(first, capacity={**first.capacity, "memory": "32Gi"})
    assert not status.has_changed(rewritten, computed(before=rewritten))


def test_what_others_wrote_is_kept_and_no_reason_to_write() -> None:
    mine = computed()
    assert mine.capacity is not None
    assert mine.allocatable is not None
    network = NodeCondition(type="NetworkUnavailable", status="False", reason="RouteCreated")
    theirs = msgspec.structs.replace(
        mine,
        conditions=[*(mine.conditions or []), network],
        capacity={**mine.capacity, "example.com/dongle": "2"},
        allocatable={**mine.allocatable, "example.com/dongle": "1"},
    )
    after = computed(before=theirs, now=NOW + 10)
    assert after.capacity is not None
    assert after.allocatable is not None
    assert (after.capacity["example.com/dongle"], after.allocatable["example.com/dongle"]) == ("2", "1")
    assert [c.type for c in after.conditions or []][-2:] == ["NetworkUnavailable", "Ready"]
    assert not status.has_changed(theirs, after)


def test_the_patch_replaces_addresses_and_writes_only_our_conditions() -> None:
    network = NodeCondition(type="NetworkUnavailable", status="False")
    before = Node(status=NodeStatus(conditions=[network]))
    body = status.patch(before, computed(before=before.status), {"kubernetes.io/os": "darwin"})
    assert body["status"]["addresses"][-1] == {"$patch": "replace"}
    assert [c["type"] for c in body["status"]["conditions"]] == [
        "MemoryPressure",
        "DiskPressure",
        "PIDPressure",
        "Ready",
    ]
    assert body["status"]["$setElementOrder/conditions"][-1] == {"type": "Ready"}
    assert body["metadata"] == {"labels": {"kubernetes.io/os": "darwin"}}


def test_labels_that_are_right_are_not_written() -> None:
    wanted = identities.labels(MINE)
    before = Node(metadata=ObjectMeta(labels={**wanted, "of": "others"}))
    assert "metadata" not in status.patch(before, computed(), wanted)


def test_a_new_node_comes_with_taints_and_default_labels() -> None:
    node = identities.initial_node(MINE, computed())
    assert [(t.key, t.value, t.effect) for t in node.spec.taints or []] == [
        ("virtual-kubelet.io/provider", "macOS-vz", "NoSchedule")
    ]
    assert node.metadata.labels == {
        "kubernetes.io/hostname": "mac-1",
        "kubernetes.io/os": "darwin",
        "kubernetes.io/arch": "arm64",
        "beta.kubernetes.io/os": "darwin",
        "beta.kubernetes.io/arch": "arm64",
    }


def test_default_labels_cannot_be_overridden() -> None:
    odd = dataclasses.replace(MINE, labels={"kubernetes.io/os": "plan9", "rack": "7"})
    assert identities.labels(odd)["kubernetes.io/os"] == "darwin"
    assert identities.labels(odd)["rack"] == "7"


def test_required_fields_are_written_even_when_they_are_empty() -> None:
    written = msgspec.to_builtins(computed())
    assert written["nodeInfo"]["kubeProxyVersion"] == ""
    assert written["daemonEndpoints"]["kubeletEndpoint"] == {"Port": 10250}


def test_the_limit_of_machines_is_a_condition_where_the_hypervisor_has_one() -> None:
    def told(limit: str | None) -> list[tuple[str, str, str]]:
        conditions = status.conditions(status.Pressure(), (), NOW, limit)
        assert conditions[-1].type == "Ready"
        return [(c.status, c.reason, c.message) for c in conditions if c.type == "VirtualMachineLimit"]

    assert told(None) == []
    assert told("two run; delete one") == [("True", "VirtualMachineLimitReached", "two run; delete one")]
    assert [(s, reason) for s, reason, _ in told("")] == [("False", "VirtualMachinesAvailable")]


def test_a_condition_that_this_driver_does_not_know_any_more_is_left_as_it_is() -> None:
    mac = status.compute(MINE, PLENTY, status.conditions(status.Pressure(), (), NOW, ""), NodeStatus(), NOW)
    other = computed(before=mac, now=NOW + 50)
    assert status.find(other.conditions, "VirtualMachineLimit") == status.find(mac.conditions, "VirtualMachineLimit")
    assert not status.has_changed(mac, other)
