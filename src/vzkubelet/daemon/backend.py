"""What the kubelet API sees of this agent: the pods' view and the node's figures."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from vzkubelet import ports
from vzkubelet.model import stats
from vzkubelet.model.pod import Pod
from vzkubelet.node.facts import Host
from vzkubelet.node.stats import NodeFigures
from vzkubelet.pods.view import PodsView


class NodeBackend:
    """`server.backend.Backend` of the node agent."""

    def __init__(self, view: PodsView, node_name: str, host: Host, cache_dir: Path, address: str) -> None:
        self._view = view
        self._figures = NodeFigures(node_name, host, cache_dir, address)

    def pods(self) -> Sequence[Pod]:
        return self._view.pods()

    async def exec(
        self,
        namespace: str,
        pod: str,
        uid: str | None,
        container: str,
        request: ports.ExecRequest,
        streams: ports.Streams,
    ) -> ports.ExitStatus:
        return await self._view.exec(namespace, pod, uid, container, request, streams)

    async def attach(self, namespace: str, pod: str, uid: str | None, container: str, streams: ports.Streams) -> None:
        await self._view.attach(namespace, pod, uid, container, streams)

    def logs(
        self, namespace: str, pod: str, uid: str | None, container: str, previous: bool, options: ports.LogOptions
    ) -> AsyncIterator[ports.LogEntry]:
        return self._view.logs(namespace, pod, uid, container, previous, options)

    async def summary(self) -> stats.Summary:
        return stats.Summary(node=await self._figures.read(), pods=await self._view.figures())

    def healthy(self) -> str | None:
        return None

    def faults(self) -> Sequence[str]:
        """Why no pod can be run now."""
        return ()
