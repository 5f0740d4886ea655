"""The Docker network of the sandboxes: the bridge that guests are on, where the machine driver has one."""

from vzkubelet import errors
from vzkubelet.ports import HostNetwork
from vzkubelet.sidecars import objects
from vzkubelet.sidecars.engine import Engine

_PREFIX = "macos-vz-kubelet-"
_BRIDGE_NAME = "com.docker.network.bridge.name"
DEFAULT = "bridge"
"""Every engine's own network, with addresses of its own; guests are not on it."""
NONE = "none"
"""For an engine that was started without any bridge: side-cars of a pod still reach each other over loopback."""


def name_of(network: HostNetwork) -> str:
    return _PREFIX + network.bridge


async def ensure(engine: Engine, network: HostNetwork | None) -> str:
    """Make sure that the network is there and as it should be; returns its name for a container's NetworkMode.

    A network that Docker attaches to an existing bridge leaves the bridge alone, also when it is removed.

    Raises:
        Conflict: a network of that name with other addresses is in use.
    """
    if network is None:
        return await _default(engine)
    name = name_of(network)
    try:
        found = await engine.get(f"networks/{name}", objects.Network)
    except errors.NotFound:
        await _create(engine, network)
        return name
    if not _matches(found, network):
        await remove_network(engine, network)
        await _create(engine, network)
    return name


async def remove_network(engine: Engine, network: HostNetwork) -> None:
    """Remove the network, not the bridge; one that is gone already is no error.

    Raises:
        Conflict: containers are still on it.
    """
    try:
        await engine.delete(f"networks/{name_of(network)}")
    except (errors.Forbidden, errors.Conflict) as exc:
        raise errors.Conflict(f"Docker network {name_of(network)} is in use: {exc.message}") from exc


async def _default(engine: Engine) -> str:
    try:
        await engine.get(f"networks/{DEFAULT}", objects.Network)
    except errors.NotFound:
        return NONE
    return DEFAULT


async def _create(engine: Engine, network: HostNetwork) -> None:
    pool = {"Subnet": network.subnet, "Gateway": network.gateway, "IPRange": network.container_range}
    body = {
        "Name": name_of(network),
        "CheckDuplicate": True,
        "Driver": "bridge",
        "IPAM": {"Driver": "default", "Config": [pool]},
        "Options": {_BRIDGE_NAME: network.bridge},
        "Labels": {"io.macos-vz-kubelet.bridge": network.bridge},
    }
    try:
        await engine.post("networks/create", objects.Created, body)
    except errors.Conflict:  # two pods at once: the other one made it
        await engine.get(f"networks/{name_of(network)}", objects.Network)


def _matches(found: objects.Network, network: HostNetwork) -> bool:
    pools = found.ipam.config or []
    wanted = objects.AddressPool(subnet=network.subnet, gateway=network.gateway, ip_range=network.container_range)
    return (found.options or {}).get(_BRIDGE_NAME) == network.bridge and wanted in pools
