"""Admission with the kubelet's reasons and messages."""

import dataclasses

import msgspec
import pytest

from tests.unit.podstate.making import pod
from vzkubelet.model import pod as api
from vzkubelet.podstate import admission, resources

NODE = admission.Node("n", "linux", 4000, 8 * 2**30, 2, {"kubernetes.io/os": "linux"}, 4, 8 * 2**30)


def asking(**requests: str) -> api.Pod:
    of = pod()
    container = msgspec.structs.replace(
        of.spec.containers[0], resources=api.ResourceRequirements(requests=dict(requests))
    )
    return msgspec.structs.replace(of, spec=msgspec.structs.replace(of.spec, containers=[container]))


def with_spec(**fields: object) -> api.Pod:
    of = pod()
    return msgspec.structs.replace(of, spec=msgspec.structs.replace(of.spec, **fields))


def test_a_pod_that_fits_is_taken() -> None:
    assert admission.reject(asking(cpu="4", memory="8Gi"), NODE, []) is None


@pytest.mark.parametrize(
    ("wanted", "others", "reason", "text"),
    [
        (asking(cpu="5"), [], "OutOfcpu", "cpu, requested: 5000, used: 0, capacity: 4000"),
        (asking(cpu="3"), [asking(cpu="2")], "OutOfcpu", "cpu, requested: 3000, used: 2000, capacity: 4000"),
        (asking(memory="9Gi"), [], "OutOfmemory", "memory, requested: 9663676416, used: 0, capacity: 8589934592"),
        (asking(), [asking(), asking()], "OutOfpods", "pods, requested: 1, used: 2, capacity: 2"),
    ],
)
def test_too_big(wanted: api.Pod, others: list[api.Pod], reason: str, text: str) -> None:
    rejection = admission.reject(wanted, NODE, others)
    assert rejection is not None
    assert rejection.reason == reason
    assert rejection.message == f"Pod was rejected: Node didn't have enough resource: {text}"


def test_pods_that_ask_for_nothing_are_not_counted_out_of_a_full_node() -> None:
    assert admission.reject(asking(), NODE, [asking(cpu="4", memory="8Gi")]) is None


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (with_spec(os=api.PodOS(name="windows")), "PodOSNotSupported"),
        (with_spec(node_selector={"kubernetes.io/os": "darwin"}), "NodeAffinity"),
        (with_spec(init_containers=[api.Container(name="i")]), "PodFeatureUnsupported"),
        (with_spec(host_network=True), "PodFeatureUnsupported"),
    ],
)
def test_what_cannot_run_here_is_told(wanted: api.Pod, reason: str) -> None:
    rejection = admission.reject(wanted, NODE, [])
    assert rejection is not None
    assert rejection.reason == reason


@pytest.mark.parametrize(
    ("cpu_milli", "memory_bytes", "expected"),
    [
        (0, 0, resources.MachineSize(1, 512 * 2**20)),
        (250, 32 * 2**20, resources.MachineSize(1, 128 * 2**20)),
        (1001, 2**30 + 1, resources.MachineSize(2, 2**30 + 2**20)),
    ],
)
def test_machine_is_rounded_up_and_never_below_the_floor(
    cpu_milli: int, memory_bytes: int, expected: resources.MachineSize
) -> None:
    assert resources.machine_size(cpu_milli, memory_bytes, 1, 128 * 2**20) == expected


def test_fields_that_are_not_acted_on_are_named() -> None:
    probed = msgspec.structs.replace(pod().spec.containers[0], readiness_probe=api.Probe(), lifecycle=api.Lifecycle())
    assert admission.ignored(with_spec(containers=[probed])) == [
        "readinessProbe of container vm",
        "lifecycle of container vm",
    ]
    assert admission.ignored(pod()) == []


GUESTS = {"image-of-mac": "darwin", "image-of-linux": "linux"}
MAC = dataclasses.replace(NODE, pods=110, macos_guests=2, guest_os=lambda image: GUESTS.get(image, ""))


def of_image(image: str) -> api.Pod:
    of = asking()
    container = msgspec.structs.replace(of.spec.containers[0], image=image)
    return msgspec.structs.replace(of, spec=msgspec.structs.replace(of.spec, containers=[container]))


def test_a_third_macos_guest_is_rejected_in_the_kubelets_words() -> None:
    macs = [of_image("image-of-mac")] * 2
    rejection = admission.reject(of_image("image-of-mac"), MAC, [*macs, of_image("image-of-linux")])
    assert rejection is not None
    assert rejection.reason == "OutOfpods"
    text = "Pod was rejected: Node didn't have enough resource: pods, requested: 1, used: 2, capacity: 2"
    assert rejection.message == text


def test_linux_guests_take_no_slots_of_macos_guests() -> None:
    assert admission.reject(of_image("image-of-linux"), MAC, [of_image("image-of-mac")] * 2) is None
    assert admission.reject(of_image("image-of-mac"), MAC, [of_image("image-of-linux")] * 5) is None


def test_a_pod_of_an_unknown_image_is_not_rejected_for_what_it_may_not_be() -> None:
    assert admission.reject(of_image("never-seen"), MAC, [of_image("image-of-mac")] * 2) is None


def test_a_driver_without_a_limit_counts_no_guests() -> None:
    node = dataclasses.replace(MAC, macos_guests=None)
    assert admission.reject(of_image("image-of-mac"), node, [of_image("image-of-mac")] * 2) is None
