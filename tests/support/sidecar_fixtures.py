"""The bench of side-cars for the suite of `ports.ContainerRuntime`: a private Docker engine."""

import asyncio
import json
import subprocess
import uuid
from collections.abc import AsyncIterator, Sequence

import pytest_asyncio

from tests.cluster.docker_engine import BUSYBOX, DockerEngine
from vzkubelet import ports
from vzkubelet.model.identity import PodRef
from vzkubelet.sidecars import Sidecars


class SidecarBench:
    """Runtimes of one owner on one engine. `network` goes to each of them."""

    image = BUSYBOX

    def __init__(self, engine: DockerEngine, network: ports.HostNetwork | None = None) -> None:
        self.engine = engine
        self.network = network
        self.owner = uuid.uuid4().hex[:12]
        self._made: list[Sidecars] = []

    def runtime(self) -> Sidecars:
        self._made.append(Sidecars(self.engine.host, self.network, self.owner))
        return self._made[-1]

    async def leftovers(self, pod: PodRef) -> Sequence[str]:
        """Containers of the pod and all anonymous volumes."""
        containers = await self.docker(
            "ps", "--all", "--filter", f"label=io.kubernetes.pod.uid={pod.uid}", "--format", "{{.Names}}"
        )
        volumes = await self.docker("volume", "ls", "--quiet")
        return [*containers.split(), *volumes.split()]

    async def inspect(self, container_id: str) -> dict[str, object]:
        found: list[dict[str, object]] = json.loads(
            await self.docker("inspect", container_id.removeprefix("docker://"))
        )
        return found[0]

    async def docker(self, *arguments: str) -> str:
        """Run Docker's own client against the engine."""
        command = ["docker", "--host", self.engine.host, *arguments]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
        return done.stdout

    async def close(self) -> None:
        for runtime in self._made:
            await runtime.close()


@pytest_asyncio.fixture
async def sidecar_bench(docker_engine: DockerEngine) -> AsyncIterator[SidecarBench]:
    bench = SidecarBench(docker_engine)
    yield bench
    await bench.close()
