"""The way to and from the API server: credentials, clocks, and the port that it dials."""

import shlex
from collections.abc import Iterator
from pathlib import Path

from vzkubelet.errors import Unavailable
from vzkubelet.host import certificates
from vzkubelet.host.certificates import USER_PREFIX
from vzkubelet.host.finding import Finding, ok, problem, warning
from vzkubelet.host.probe import Probe
from vzkubelet.host.subject import Subject

_UNKNOWN_ISSUER = ("unable to get local issuer", "self-signed certificate", "self signed certificate",
    "certificate signature failure")  # fmt: skip
"""OpenSSL's words for a server whose certificate was signed by somebody else."""
CLOCK_WARNING_S, CLOCK_PROBLEM_S = 5.0, 60.0
"""The Date header has whole seconds. Leases are renewed every 10 s, tokens are valid from now on."""
LOCK = Path("node/lock")
"""In the cache: the agent that runs leaves its process number in it."""


def kubeconfig(probe: Probe, subject: Subject) -> Iterator[Finding]:
    assert subject.cluster is not None
    path = subject.config.kube.kubeconfig
    if subject.cluster.kubeconfig_fault:
        fixes = [f"kubectl --kubeconfig {shlex.quote(str(path))} config view"] if probe.status(path) else []
        fixes.append(f"# make one as {certificates.NODE_GUIDE} has it, and name it: --kubeconfig FILE")
        yield problem("kubeconfig", subject.cluster.kubeconfig_fault, "the agent refuses to start", *fixes)
    else:
        yield ok("kubeconfig", f"{path} leads to {subject.cluster.server}")


def api_server(_: Probe, subject: Subject) -> Iterator[Finding]:
    assert subject.cluster is not None
    cluster, name = subject.cluster, subject.config.node.name
    if cluster.kubeconfig_fault or cluster.pair_fault:
        return
    path = subject.config.kube.kubeconfig
    if any(words in cluster.access_fault for words in _UNKNOWN_ISSUER):
        yield problem(
            "api-server",
            f"the certificate-authority in {path} is not the one of {cluster.server}: {cluster.access_fault}",
            "the node does not join, or is NotReady",
            "# as administrator, where kubectl works:",
            "kubectl config view --raw --minify -o 'jsonpath={.clusters[0].cluster.certificate-authority-data}' | "
            "base64 -d >ca.crt",
            f"kubectl config --kubeconfig {shlex.quote(str(path))} set-cluster main --server {cluster.server} "
            "--certificate-authority ca.crt --embed-certs   # main: the cluster's name in it",
        )
    elif cluster.access_fault:
        yield problem(
            "api-server",
            cluster.access_fault,
            "the node does not join, or is NotReady",
            f"kubectl --kubeconfig {path} auth whoami",
        )
    elif cluster.user == USER_PREFIX + name:
        yield ok("api-server", f"{cluster.server} takes us for {cluster.user}")
    elif cluster.user.startswith(USER_PREFIX):
        other = cluster.user.removeprefix(USER_PREFIX)
        yield problem(
            "api-server",
            f"the credential is that of node {other}, not of {name}",
            "the API server lets a node write only what is its own",
            f"macos-vz-kubelet --nodename {other}",
        )
    else:
        yield problem(
            "api-server",
            f'the credential is that of "{cluster.user}", not of {USER_PREFIX}{name}',
            "the agent refuses to work with more rights than a node's, and the API server gives it less",
            *certificates.client_request(subject),
        )


def clock(probe: Probe, subject: Subject) -> Iterator[Finding]:
    assert subject.cluster is not None
    if not subject.cluster.server:
        return
    try:
        theirs = probe.server_time(subject.cluster.server)
    except Unavailable as exc:
        yield warning("clock", f"cannot be compared: {exc}", "certificates and leases need the right time")
        return
    off_s = probe.time() - theirs
    text = f"this clock is {abs(off_s):.0f} s {'ahead of' if off_s > 0 else 'behind'} the API server's"
    why = "certificates and tokens seem not yet valid or expired, and the lease of the node looks old"
    fixes: tuple[str, ...]
    if probe.facts.system == "darwin":
        fixes = ("sudo systemsetup -setusingnetworktime on", "sudo sntp -sS time.apple.com")
    else:
        fixes = ("sudo timedatectl set-ntp true",)
    if abs(off_s) >= CLOCK_PROBLEM_S:
        yield problem("clock", text, why, *fixes)
    elif abs(off_s) >= CLOCK_WARNING_S:
        yield warning("clock", text, why, *fixes)
    else:
        yield ok("clock", "this clock and the API server's agree")


def port(probe: Probe, subject: Subject) -> Iterator[Finding]:
    server = subject.config.server
    if server.port == 0:
        yield ok("port", "any free port will do for the kubelet API")
        return
    taken = probe.port_taken(server.bind_address, server.port)
    agent = running_agent(probe, subject)
    if not taken:
        yield ok("port", f"port {server.port} is free for the kubelet API")
    elif agent:
        yield ok("port", f"port {server.port} is the agent's, which runs as process {agent}")
    elif "assign requested address" in taken:
        yield problem(
            "port",
            f"{server.bind_address} is not an address of this host (--bind-address)",
            "the agent does not start: exec, logs and metrics are served there",
            "macos-vz-kubelet --bind-address 0.0.0.0   # every address; or one of: "
            + ("ifconfig" if probe.facts.system == "darwin" else "ip -brief address"),
        )
    elif "permission denied" in taken:
        yield problem(
            "port",
            f"port {server.port} is root's alone: {taken}",
            "the agent does not start: exec, logs and metrics are served there",
            "macos-vz-kubelet --kubelet-port 10250",
        )
    else:
        find = f"sudo lsof -nP -iTCP:{server.port} -sTCP:LISTEN"
        if probe.facts.system == "linux":
            find = f"sudo ss -ltnp 'sport = :{server.port}'"
        yield problem(
            "port",
            f"port {server.port} on {server.bind_address} cannot be had: {taken}",
            "the agent does not start: exec, logs and metrics are served there",
            find,
            "macos-vz-kubelet --kubelet-port 0   # any free port; the node tells it to the API server",
        )


def running_agent(probe: Probe, subject: Subject) -> int | None:
    """Process number of the agent that holds this cache; what a dead one left behind does not count."""
    try:
        text = probe.read(subject.config.cache_dir / LOCK).decode(errors="replace").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() and probe.process_runs(int(text)) else None
