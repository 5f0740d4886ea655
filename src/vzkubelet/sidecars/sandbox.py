"""The pod's sandbox: one container that holds the network namespace its side-cars share."""

from collections.abc import Sequence

from vzkubelet import errors
from vzkubelet.model.identity import PodRef
from vzkubelet.ports import ContainerSpec, HostNetwork
from vzkubelet.sidecars import containers, naming, network, objects, pause
from vzkubelet.sidecars.engine import Engine
from vzkubelet.sidecars.naming import Known


async def ensure(
    engine: Engine, owner: str, host_network: HostNetwork | None, spec: ContainerSpec, present: Sequence[Known]
) -> str:
    """The ID of the pod's running sandbox: the one among `present`, started again where it died, or a new one.

    Raises:
        Error: with what the engine said.
    """
    found = next((known for known in present if known.is_sandbox), None)
    if found is not None and found.status == "running":
        return found.id
    if found is not None:
        try:
            await engine.command(f"containers/{found.id}/start")
        except (errors.NotFound, errors.Forbidden):  # it, or the network that it was on, is gone
            await engine.delete(f"containers/{found.id}", force="true", v="true")
        else:
            return found.id
    return await _create(engine, owner, host_network, spec)


async def address(engine: Engine, sandbox_id: str) -> str:
    """The IPv4 address that the pod's side-cars share; empty without a network."""
    found = await engine.get(f"containers/{sandbox_id}/json", objects.Container)
    endpoints = (found.network_settings.networks or {}).values()
    return next((endpoint.ip_address for endpoint in endpoints if endpoint.ip_address), "")


async def _create(engine: Engine, owner: str, host_network: HostNetwork | None, spec: ContainerSpec) -> str:
    image = await pause.ensure(engine)
    mode = await network.ensure(engine, host_network)
    config = containers.sandbox_config(spec, owner, image, mode)
    name = _name(spec.pod)
    created = await engine.post("containers/create", objects.Created, config, name=name)
    await engine.command(f"containers/{created.id}/start")
    return created.id


def _name(pod: PodRef) -> str:
    return naming.docker_name(pod, naming.SANDBOX_NAME, 0)
