"""A real control plane on loopback: etcd, kube-apiserver, kube-controller-manager and kube-scheduler."""

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from tests.cluster import audit, bootstrap_policy, kubeconfig, pki
from tests.cluster.api import ApiClient
from tests.cluster.binary import cluster_binary
from tests.cluster.ports import free_port
from tests.cluster.processes import ChildProcess, ComponentFailed, Lifetime, ProcessRecord, spawn, wait_until

LOOPBACK = "127.0.0.1"
_CONTROLLERS = ("kube-controller-manager", "kube-scheduler")
COMPONENTS = ("etcd", "kube-apiserver", *_CONTROLLERS)
SERVICE_RANGE = "10.96.0.0/16"
SERVICE_ADDRESS = "10.96.0.1"
START_TIMEOUT_S = 120.0
START_ATTEMPTS = 3


class ClusterPorts(msgspec.Struct, frozen=True):
    """What a later life of the cluster, or another process, must know to find it."""

    etcd: int
    apiserver: int


class ControlPlane:
    """The control plane whose files are in `directory`.

    `server_addresses` are further IP addresses that guests reach the API server at; with any, it listens on all
    interfaces, else on loopback alone. Usable as a context manager. Not for use from several threads.
    """

    def __init__(
        self,
        directory: Path,
        *,
        lifetime: Lifetime = Lifetime.WITH_PARENT,
        server_addresses: Sequence[str] = (),
        on_start: Callable[[ProcessRecord], None] = lambda _: None,
    ) -> None:
        self.directory = directory.absolute()
        self.pki = pki.Pki(self.directory / "pki")
        self.audit_log = self.directory / "logs" / "audit.log"
        self.admin_kubeconfig = self.directory / "admin.kubeconfig"
        self._lifetime = lifetime
        self._server_addresses = tuple(server_addresses)
        self._on_start = on_start
        self._children: dict[str, ChildProcess] = {}
        self._api: ApiClient | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def server(self) -> str:
        """URL of the API server."""
        return f"https://{LOOPBACK}:{self._ports.apiserver}"

    @property
    def api(self) -> ApiClient:
        """Client with the admin's identity."""
        if self._api is None:
            self._api = ApiClient(self.server, self.pki.ca.certificate, self.pki.admin)
        return self._api

    @property
    def kubectl(self) -> Path:
        """The kubectl program of the cluster's own version."""
        return self.directory / "bin" / "kubectl"

    @property
    def audit_events(self) -> list[audit.AuditEvent]:
        return audit.read(self.audit_log)

    def start(self) -> None:
        """Start everything; returns when /readyz answers and a controller has made the default service account.

        A directory that was used before keeps its CA, its ports and its objects.
        Raises: ComponentFailed with the end of the log of what failed; then nothing is left running.
        """
        try:
            is_new = not self._ports_file.exists()
            if is_new:
                self._prepare()
            self._link_programs()
            if is_new:
                self._start_on_free_ports()
            else:
                self._start_components()
            bootstrap_policy.apply(self.api)
            self._wait_for_controllers()
        except BaseException:
            self._kill_all()
            raise

    def stop(self) -> None:
        """Stop what this object started, last first. The files stay."""
        while self._children:
            self._children.popitem()[1].stop()

    def _kill_all(self) -> None:
        # An API server that waits for its etcd heeds no SIGTERM.
        while self._children:
            self._children.popitem()[1].kill()

    def stop_apiserver(self) -> None:
        """Stop the API server alone; clients see refused connections from now on."""
        self._children.pop("kube-apiserver").stop()

    def start_apiserver(self, *, fresh_controllers: bool = True) -> None:
        """Start the API server again, on its old port; returns when it is ready.

        The controller manager and the scheduler are started anew as well: after an outage of some seconds their clients
        back off for up to 30 s, which is nothing that a test of a node agent wants to wait for.
        """
        self._start_apiserver()
        if fresh_controllers:
            for component in _CONTROLLERS:
                self._children.pop(component).kill()
            self._start_controllers()

    def restart_apiserver(self) -> None:
        self.stop_apiserver()
        self.start_apiserver()

    def kill_apiserver(self) -> None:
        """End the API server as a crash does: watches break without a goodbye."""
        self._children.pop("kube-apiserver").kill()

    def run_kubectl(
        self, *arguments: str, stdin: bytes | None = None, timeout_s: float = 60.0, check: bool = True
    ) -> subprocess.CompletedProcess[bytes]:
        """Run kubectl as the admin; both outputs are captured.

        Raises: subprocess.CalledProcessError when `check` and the exit code is not 0, subprocess.TimeoutExpired.
        """
        done = subprocess.run(
            [self.kubectl, *arguments],
            env={**os.environ, "KUBECONFIG": str(self.admin_kubeconfig), "HOME": str(self.directory)},
            input=b"" if stdin is None else stdin,
            capture_output=True,
            timeout=timeout_s,
        )
        if check and done.returncode != 0:
            error = subprocess.CalledProcessError(done.returncode, done.args, done.stdout, done.stderr)
            error.add_note(done.stderr.decode(errors="replace"))
            raise error
        return done

    @property
    def _ports_file(self) -> Path:
        return self.directory / "ports.json"

    @property
    def _ports(self) -> ClusterPorts:
        return msgspec.json.decode(self._ports_file.read_bytes(), type=ClusterPorts)

    def _prepare(self) -> None:
        for unfinished in ("pki", "etcd", "logs"):
            shutil.rmtree(self.directory / unfinished, ignore_errors=True)
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        pki.create(self.pki.directory, server_addresses=self._server_addresses, service_address=SERVICE_ADDRESS)
        self.audit_log.parent.mkdir()
        (self.directory / "audit-policy.yaml").write_text(audit.POLICY)

    def _link_programs(self) -> None:
        binary = cluster_binary()
        self.kubectl.parent.mkdir(exist_ok=True)
        for component in (*COMPONENTS, "kubectl"):
            link = self.kubectl.parent / component
            link.unlink(missing_ok=True)
            link.symlink_to(binary)

    def _start_on_free_ports(self) -> None:
        for attempts_left in reversed(range(START_ATTEMPTS)):
            self._ports_file.write_bytes(msgspec.json.encode(ClusterPorts(etcd=free_port(), apiserver=free_port())))
            try:
                self._start_components()
            except ComponentFailed as error:
                self._kill_all()
                self._ports_file.unlink()
                # Another process may take a port between the probe and the bind; nothing else is tried again.
                if "address already in use" not in str(error) or not attempts_left:
                    raise
            else:
                return

    def _start_components(self) -> None:
        self._api = None
        self._write_kubeconfigs()
        self._spawn("etcd", self._etcd_flags())
        self._start_apiserver()
        self._start_controllers()

    def _start_apiserver(self) -> None:
        child = self._spawn("kube-apiserver", self._apiserver_flags())
        self._wait_until(self.api.is_ready, child, what="/readyz answered")

    def _start_controllers(self) -> None:
        self._spawn("kube-controller-manager", self._controller_manager_flags())
        self._spawn("kube-scheduler", self._scheduler_flags())

    def _write_kubeconfigs(self) -> None:
        users = {"admin": "kubernetes-admin", "controller-manager": "controller-manager", "scheduler": "scheduler"}
        for name, user in users.items():
            kubeconfig.write(
                self.directory / f"{name}.kubeconfig",
                server=self.server,
                ca_certificate=self.pki.ca.certificate,
                user=user,
                client=self.pki.pair(name),
            )

    def _spawn(self, component: str, flags: Sequence[str]) -> ChildProcess:
        child = spawn(
            component,
            [self.kubectl.parent / component, *flags],
            log=self.directory / "logs" / f"{component}.log",
            lifetime=self._lifetime,
            directory=self.directory,
        )
        self._children[component] = child
        self._on_start(child.record)
        return child

    def _wait_for_controllers(self) -> None:
        def default_account_exists() -> bool:
            accounts = self.api.get("/api/v1/namespaces/default/serviceaccounts")["items"]
            return any(account["metadata"]["name"] == "default" for account in accounts)

        manager = self._children["kube-controller-manager"]
        self._wait_until(default_account_exists, manager, what="the default service account was made")

    def _wait_until(self, ready: Callable[[], bool], child: ChildProcess, *, what: str) -> None:
        """Wait for one component, and blame the one that died when it is another."""

        def ready_and_all_alive() -> bool:
            for other in self._children.values():
                if (code := other.exit_code()) is not None:
                    raise other.failure(f"exited with code {code} before {what}")
            return ready()

        try:
            wait_until(ready_and_all_alive, child, what=what, timeout_s=START_TIMEOUT_S)
        except ComponentFailed:
            # A question that hung may outlast both: the one that died of the other's death is not to blame.
            for other in self._children.values():
                if other is not child and (code := other.exit_code()) is not None:
                    raise other.failure(f"exited with code {code} before {what}") from None
            raise

    def _etcd_flags(self) -> list[str]:
        client = f"http://{LOOPBACK}:{self._ports.etcd}"
        # A single member never dials its peer address: the kernel picks the port, the advertised one is only a name.
        peer_name = f"http://{LOOPBACK}:1"
        return [
            "--name=default",
            f"--data-dir={self.directory / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls=http://{LOOPBACK}:0",
            f"--initial-advertise-peer-urls={peer_name}",
            f"--initial-cluster=default={peer_name}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]

    def _apiserver_flags(self) -> list[str]:
        keys = self.pki
        return [
            f"--etcd-servers=http://{LOOPBACK}:{self._ports.etcd}",
            f"--secure-port={self._ports.apiserver}",
            f"--bind-address={'0.0.0.0' if self._server_addresses else LOOPBACK}",
            # Given explicitly, so that a network namespace without a default route will do.
            f"--advertise-address={next(iter(self._server_addresses), LOOPBACK)}",
            # Endpoints on loopback are invalid, so nothing may try to write them.
            f"--endpoint-reconciler-type={'lease' if self._server_addresses else 'none'}",
            f"--tls-cert-file={keys.apiserver.certificate}",
            f"--tls-private-key-file={keys.apiserver.key}",
            f"--client-ca-file={keys.ca.certificate}",
            f"--service-account-key-file={keys.service_account_public_key}",
            f"--service-account-signing-key-file={keys.service_account_key}",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--enable-bootstrap-token-auth",
            f"--kubelet-client-certificate={keys.kubelet_client.certificate}",
            f"--kubelet-client-key={keys.kubelet_client.key}",
            f"--kubelet-certificate-authority={keys.ca.certificate}",
            "--kubelet-preferred-address-types=InternalIP,Hostname",
            "--allow-privileged=true",
            # Without it open watches keep a stopping server alive until it is killed.
            "--shutdown-watch-termination-grace-period=1s",
            f"--audit-policy-file={self.directory / 'audit-policy.yaml'}",
            f"--audit-log-path={self.audit_log}",
            # One file, never rotated away: the checks read the whole run.
            "--audit-log-maxsize=0",
        ]

    def _controller_manager_flags(self) -> list[str]:
        return [
            f"--kubeconfig={self.directory / 'controller-manager.kubeconfig'}",
            "--controllers=*,bootstrapsigner,tokencleaner",
            "--use-service-account-credentials",
            # With the default of 20 requests/s the controllers' first tokens alone take 4 s.
            "--kube-api-qps=300",
            "--kube-api-burst=600",
            f"--root-ca-file={self.pki.ca.certificate}",
            f"--service-account-private-key-file={self.pki.service_account_key}",
            f"--cluster-signing-cert-file={self.pki.ca.certificate}",
            f"--cluster-signing-key-file={self.pki.ca.key}",
            "--leader-elect=false",
            f"--bind-address={LOOPBACK}",
            "--secure-port=0",
        ]

    def _scheduler_flags(self) -> list[str]:
        return [
            f"--kubeconfig={self.directory / 'scheduler.kubeconfig'}",
            "--leader-elect=false",
            f"--bind-address={LOOPBACK}",
            "--secure-port=0",
        ]
