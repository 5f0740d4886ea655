"""How long a command that does nothing takes: through kubectl, the API server, the agent's own port, and plain ssh."""

import asyncio
import contextlib
import os
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench import timeline
from bench.figures import ExecRoundTrip, Spread, ratio
from bench.world import CONTAINER, NAMESPACE, World
from tests.cluster.agent import LOGIN
from tests.support.exec_client import ExecClient, client_tls, exec_path, exit_code

KUBECTL = "kubectl exec"
KUBECTL_GET = "kubectl get pod (a start of kubectl, one GET)"
API_SERVER = "SPDY client -> API server -> agent"
AGENT = "SPDY client -> agent"
SSH_NEW = "ssh, new connection"
SSH_WARM = "ssh, warm connection (ControlMaster)"
RATIOS = ((KUBECTL, SSH_NEW), (KUBECTL, SSH_WARM), (AGENT, SSH_WARM), (AGENT, SSH_NEW), (API_SERVER, AGENT))
COMMAND_TIMEOUT_S = 30.0

Way = Callable[[], None]


def measure(world: World, pod: str, directory: Path, rounds: int) -> ExecRoundTrip:
    """All ways in turn, `rounds` times, so that a busy moment of the host falls on each of them alike."""
    with _ssh(world, directory) as (fresh, warm):
        ways: dict[str, Way] = {
            KUBECTL: lambda: _kubectl(world, "exec", pod, "-c", CONTAINER, "--", "true"),
            KUBECTL_GET: lambda: _kubectl(world, "get", "pod", pod),
            API_SERVER: _through_api_server(world, pod),
            AGENT: _at_agent(world, pod),
            SSH_NEW: fresh,
            SSH_WARM: warm,
        }
        spent: dict[str, list[float]] = {name: [] for name in ways}
        for way in ways.values():  # the first use of each fills caches of the host, which is not the question
            way()
        for _ in range(rounds):
            for name, way in ways.items():
                began = time.monotonic()
                way()
                spent[name].append(time.monotonic() - began)
    spreads = {name: Spread.of(values) for name, values in spent.items()}
    return ExecRoundTrip(spreads, {f"{a} : {b}": ratio(spent[a], spent[b]) for a, b in RATIOS})


def _kubectl(world: World, *arguments: str) -> None:
    world.cluster.run_kubectl("-n", NAMESPACE, *arguments, timeout_s=COMMAND_TIMEOUT_S)


def _through_api_server(world: World, pod: str) -> Way:
    keys = world.cluster.pki
    tls = client_tls(keys.ca.certificate, keys.admin)
    port = int(world.cluster.server.rpartition(":")[2])
    query = exec_path(["true"], stdout=True, stderr=True).partition("?")[2]
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}/exec?container={CONTAINER}&{query}"
    return lambda: asyncio.run(_exec(port, tls, path))


def _at_agent(world: World, pod: str) -> Way:
    """With the API server's own client certificate; each time a new TLS connection, as the API server makes one."""
    keys = world.cluster.pki
    tls = client_tls(keys.ca.certificate, keys.kubelet_client)
    port = world.kubelet_port
    path = exec_path(["true"], names=f"{NAMESPACE}/{pod}/{CONTAINER}", output=True, error=True)
    return lambda: asyncio.run(_exec(port, tls, path))


async def _exec(port: int, tls: ssl.SSLContext, path: str) -> None:
    async with asyncio.timeout(COMMAND_TIMEOUT_S), ExecClient.connect(port, tls, path) as client:
        await client.open("error", "stdout", "stderr")
        status = await client.outcome()
        if exit_code(status) != 0:
            raise RuntimeError(f"exec of true ended with {status}")


@contextlib.contextmanager
def _ssh(world: World, directory: Path) -> Iterator[tuple[Way, Way]]:
    """OpenSSH to the guest that the agent logged into last, by a new connection each time and by one that is kept."""
    _, host, port = timeline.login(world.log)
    ask = directory / "askpass"
    ask.write_text("#!/bin/sh\nprintf '%s\\n' \"$BENCH_PASSWORD\"\n")
    ask.chmod(0o700)
    environment = {
        **os.environ,
        "BENCH_PASSWORD": LOGIN["VZ_SSH_PASSWORD"],
        "SSH_ASKPASS": str(ask),
        "SSH_ASKPASS_REQUIRE": "force",
    }
    options = (
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
        "LogLevel=ERROR",
        "PreferredAuthentications=password",
        "NumberOfPasswordPrompts=1",
    )
    base = ["ssh", "-F", "none", "-T", "-p", str(port), *(f"-o{option}" for option in options)]
    shared = [*base, f"-oControlPath={directory / 'ssh.sock'}"]
    target = f"{LOGIN['VZ_SSH_USER']}@{host}"

    def run(*command: str) -> None:
        subprocess.run(command, env=environment, check=True, stdin=subprocess.DEVNULL, timeout=COMMAND_TIMEOUT_S)

    run(*shared, "-oControlMaster=yes", "-oControlPersist=yes", "-f", "-N", target)
    try:
        yield (lambda: run(*base, target, "true")), (lambda: run(*shared, target, "true"))
    finally:
        run(*shared, "-q", "-O", "exit", target)
