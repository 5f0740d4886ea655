"""What of a pod's security contexts reaches the runtime of a side-car."""

import msgspec
import pytest

from tests.unit.pods.node import Node, pod
from vzkubelet.model import pod as api
from vzkubelet.ports import ContainerSecurity, ContainerSpec, ContainerState


async def asked(
    node: Node, monkeypatch: pytest.MonkeyPatch, own: api.SecurityContext | None, shared: api.PodSecurityContext | None
) -> ContainerSecurity:
    """What the side-car of a pod with these contexts is started with."""
    specs: list[ContainerSpec] = []
    start = node.sidecars.start

    async def noted(spec: ContainerSpec) -> ContainerState:
        specs.append(spec)
        return await start(spec)

    monkeypatch.setattr(node.sidecars, "start", noted)
    made = pod("vm", "web")
    machine, sidecar = made.spec.containers
    containers = [machine, msgspec.structs.replace(sidecar, security_context=own)]
    spec = msgspec.structs.replace(made.spec, containers=containers, security_context=shared)
    node.bind(msgspec.structs.replace(made, spec=spec))
    await node.running("vm", "web")
    [started] = specs
    return started.security


async def test_everything_given_is_passed_on(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    own = api.SecurityContext(
        privileged=True,
        read_only_root_filesystem=True,
        allow_privilege_escalation=False,
        capabilities=api.Capabilities(add=["NET_ADMIN"], drop=["ALL"]),
    )
    shared = api.PodSecurityContext(fs_group=2000, supplemental_groups=[3000, 2000])
    assert await asked(node, monkeypatch, own, shared) == ContainerSecurity(
        read_only_root=True,
        privileged=True,
        allow_privilege_escalation=False,
        capabilities_add=("NET_ADMIN",),
        capabilities_drop=("ALL",),
        supplemental_groups=(3000, 2000),
    )


async def test_group_zero_of_the_volumes_is_a_group(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    security = await asked(node, monkeypatch, None, api.PodSecurityContext(fs_group=0))
    assert security == ContainerSecurity(supplemental_groups=(0,))


@pytest.mark.parametrize("own", [None, api.SecurityContext()])
async def test_nothing_given_is_the_runtimes_default(
    node: Node, monkeypatch: pytest.MonkeyPatch, own: api.SecurityContext | None
) -> None:
    assert await asked(node, monkeypatch, own, None) == ContainerSecurity()
