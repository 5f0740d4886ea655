"""Joining the cluster: the Node is created, or taken over where it exists (kubelet ``registerWithAPIServer``)."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from vzkubelet.errors import AlreadyExists, Error
from vzkubelet.kube import paths
from vzkubelet.kube.client import Client, Patch
from vzkubelet.model.node import Node, NodeStatus
from vzkubelet.node import identity as identities
from vzkubelet.node import status
from vzkubelet.node.identity import Identity

_log = logging.getLogger(__name__)

BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 7.0

Compute = Callable[[NodeStatus], NodeStatus]
"""The status to write, given the one that the API server has."""


@dataclass(frozen=True, slots=True)
class Registered:
    """The node as stored, and the status it had before (an empty one when it is new)."""

    node: Node
    before: NodeStatus


async def register(client: Client, identity: Identity, compute: Compute) -> Registered:
    """Try until it is done, first after 0.1 s, at last every 7 s.

    Taints are given only at creation: NodeRestriction lets a node change them never again.
    """
    delay_s = BACKOFF_FIRST_S
    while True:
        try:
            return await try_register(client, identity, compute)
        except Error as exc:
            _log.warning("node %s not registered, again in %.1f s: %s", identity.name, delay_s, exc)
        await asyncio.sleep(delay_s)
        delay_s = min(delay_s * 2, BACKOFF_MAX_S)


async def try_register(client: Client, identity: Identity, compute: Compute) -> Registered:
    """Once. Raises what the API server says, Forbidden when the credential is another node's."""
    fresh = identities.initial_node(identity, compute(NodeStatus()))
    try:
        node = await client.create(paths.NODES, fresh, Node)
    except AlreadyExists:
        existing = await client.get(paths.node(identity.name), Node)
        node = await write(client, existing, compute(existing.status), identity)
        _log.info("node %s was registered before", identity.name)
        return Registered(node, existing.status)
    _log.info("node %s registered", identity.name)
    return Registered(node, NodeStatus())


async def write(client: Client, before: Node, wanted: NodeStatus, identity: Identity) -> Node:
    """Patch status and labels. Raises NotFound when the node is gone."""
    body = status.patch(before, wanted, identities.labels(identity))
    return await client.patch(paths.node(identity.name, "status"), Patch.STRATEGIC, body, Node)
