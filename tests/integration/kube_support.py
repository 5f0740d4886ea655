"""What the tests of rooms kube and node share: a client with a node's identity, deltas as they come, waiting."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable
from typing import Any

from tests.cluster.node_credential import NodeCredential
from vzkubelet import aio
from vzkubelet.kube import kubeconfig
from vzkubelet.kube.client import Client
from vzkubelet.kube.credentials import Credentials
from vzkubelet.kube.paths import PODS
from vzkubelet.kube.reflector import Added, Deleted, Delta, Modified, Reflector, Synced
from vzkubelet.model.pod import Pod

WAIT_S = 60.0


async def until(done: Callable[[], bool], what: str, timeout_s: float = WAIT_S) -> None:
    """Wait for the world outside; fails with `what` was awaited."""
    try:
        async with asyncio.timeout(timeout_s):
            while not done():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not in {timeout_s:g} s: {what}") from None


async def until_true(check: Callable[[], Any], what: str, timeout_s: float = WAIT_S) -> None:
    """As `until`, for checks that block (the admin's client)."""
    async with asyncio.timeout(timeout_s):
        while not await asyncio.to_thread(check):
            await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def connected(credential: NodeCredential, **changes: Any) -> AsyncIterator[Client]:
    """`changes` are to the kubeconfig's `Access`."""
    client = Client(Credentials(dataclasses.replace(kubeconfig.load(credential.kubeconfig), **changes)))
    try:
        yield client
    finally:
        await client.close()


class WatchedPods:
    """The pods of a node as a reflector tells them."""

    def __init__(self, client: Client, node: str) -> None:
        self.deltas: list[tuple[str, str]] = []
        self.pods: dict[str, Pod] = {}
        self.syncs = 0
        self.reflector = Reflector(client, PODS, Pod, self._on_delta, field_selector=f"spec.nodeName={node}")

    def _on_delta(self, delta: Delta[Pod]) -> None:
        match delta:
            case Synced():
                self.syncs += 1
            case Added(pod) | Modified(pod):
                self.deltas.append((type(delta).__name__, pod.metadata.name))
                self.pods[pod.metadata.name] = pod
            case Deleted(pod):
                self.deltas.append(("Deleted", pod.metadata.name))
                self.pods.pop(pod.metadata.name, None)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["WatchedPods"]:
        task = aio.spawn(self.reflector.run(), name="pods")
        try:
            yield self
            assert not task.done(), task.exception()
        finally:
            await aio.cancel(task)


def pod_body(name: str, node: str, **spec: Any) -> dict[str, Any]:
    """A pod that is bound already."""
    containers = [{"name": "main", "image": "registry.test/image:1"}]
    return {
        "metadata": {"name": name},
        "spec": {
            "nodeName": node,
            "containers": containers,
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            **spec,
        },
    }
