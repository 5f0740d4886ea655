"""What Docker is asked for, and what its refusals mean."""

import pytest

from vzkubelet import errors
from vzkubelet.model.identity import PodRef
from vzkubelet.ports import ContainerPhase, ContainerResources, ContainerSecurity, ContainerSpec, Image
from vzkubelet.sidecars import containers, objects

POD = PodRef("team", "web", "uid-1")
IMAGE = Image("busybox", "docker.io/library/busybox@sha256:" + "0" * 64, 1)


def spec(**changes: object) -> ContainerSpec:
    return ContainerSpec(POD, "log", 2, IMAGE, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        (ContainerResources(), {"CpuShares": 2}),
        (ContainerResources(cpu_request_milli=250), {"CpuShares": 256}),
        (ContainerResources(cpu_limit_milli=500), {"CpuShares": 2, "CpuPeriod": 100_000, "CpuQuota": 50_000}),
        (ContainerResources(cpu_limit_milli=1), {"CpuShares": 2, "CpuPeriod": 100_000, "CpuQuota": 1000}),
        (ContainerResources(memory_limit_bytes=64), {"CpuShares": 2, "Memory": 64, "MemorySwap": 64}),
    ],
)
def test_resources(resources: ContainerResources, expected: dict[str, int]) -> None:
    host = containers.sidecar_config(spec(resources=resources), "me", "box")["HostConfig"]
    assert {k: v for k, v in host.items() if k.startswith(("Cpu", "Mem"))} == expected


def test_security() -> None:
    asked = ContainerSecurity(
        read_only_root=True,
        privileged=True,
        allow_privilege_escalation=False,
        capabilities_add=("NET_ADMIN", "CAP_SYS_TIME"),
        capabilities_drop=("ALL",),
        supplemental_groups=(0, 2000),
    )
    host = containers.sidecar_config(spec(security=asked), "me", "box")["HostConfig"]
    assert host["ReadonlyRootfs"] is True
    assert host["Privileged"] is True
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["CapAdd"] == ["CAP_NET_ADMIN", "CAP_SYS_TIME"]
    assert host["CapDrop"] == ["ALL"], "Docker knows no CAP_ALL"
    assert host["GroupAdd"] == ["0", "2000"]


def test_security_that_is_not_given_restricts_and_grants_nothing() -> None:
    host = containers.sidecar_config(spec(), "me", "box")["HostConfig"]
    keys = ("ReadonlyRootfs", "Privileged", "SecurityOpt", "CapAdd", "CapDrop", "GroupAdd")
    assert not any(host[key] for key in keys)


def test_what_the_pod_does_not_give_is_left_to_the_image() -> None:
    config = containers.sidecar_config(spec(command=(), args=None), "me", "box")
    assert not {"Entrypoint", "Cmd", "WorkingDir", "User"} & config.keys()


def test_hostname_is_cut_as_the_kubelet_cuts_it() -> None:
    config = containers.sandbox_config(spec(hostname="a" * 62 + "-b.example"), "me", "pause", "bridge")
    assert config["Hostname"] == "a" * 62


@pytest.mark.parametrize(
    ("text", "class_", "reason"),
    [
        ('exec: "nope": executable file not found in $PATH: unknown', errors.NotFound, "StartError"),
        ("exec: /x: no such file or directory: unknown", errors.NotFound, "StartError"),
        ('exec: "/etc": permission denied: unknown', errors.Forbidden, "StartError"),
        ("unable to find user x: no matching entries in passwd file", errors.InvalidInput, "StartError"),
        ('error mounting "/tmp" to rootfs: not a directory', errors.InvalidInput, "CreateContainerError"),
        ("No such container: 0123", errors.Unavailable, "RunContainerError"),
        ("cannot join network of a non running container: 0123", errors.Unavailable, "RunContainerError"),
    ],
)
def test_refused_start(text: str, class_: type[errors.Error], reason: str) -> None:
    fault = containers.start_fault(errors.Unavailable(text))
    assert (type(fault), fault.reason, fault.message) == (class_, reason, text)


def test_end_is_never_before_the_start() -> None:
    state = objects.State(
        status="exited", started_at="2026-11-21T13:01:39.9Z", finished_at="2026-11-21T13:01:39.8Z", exit_code=0
    )
    seen = containers.observed(objects.Container(id="x", state=state))
    assert seen.finished_at == seen.started_at


@pytest.mark.parametrize(
    ("status", "phase"),
    [
        ("running", ContainerPhase.RUNNING),
        ("paused", ContainerPhase.RUNNING),
        ("exited", ContainerPhase.EXITED),
        ("dead", ContainerPhase.EXITED),
    ],
)
def test_phase(status: str, phase: ContainerPhase) -> None:
    found = containers.observed(objects.Container(id="x", state=objects.State(status=status, exit_code=1)))
    assert found.phase is phase
    assert found.reason == ("Error" if phase is ContainerPhase.EXITED else "")
