"""The test cluster is what it claims to be: real components, real node identity, nothing left behind."""

import json
import os
import ssl
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from cryptography import x509

from tests.cluster import audit, daemons
from tests.cluster.api import ApiClient, ApiError
from tests.cluster.control_plane import COMPONENTS, ControlPlane
from tests.cluster.docker_api import DockerApi
from tests.cluster.node_credential import SERVING_SIGNER
from tests.cluster.processes import ComponentFailed, Lifetime, ProcessRecord, spawn, start_identity
from tests.cluster.run_state import RunState
from tests.support.cluster_fixtures import Kubectl, MintCredential

PROPAGATION_TIMEOUT_S = 10.0


def register(api: ApiClient, name: str) -> None:
    """Create a Node object as an agent does, ready to be scheduled to."""
    resources = {"cpu": "4", "memory": "8Gi", "pods": "10"}
    node = {
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {
            "capacity": resources,
            "allocatable": resources,
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
        },
    }
    api.create("/api/v1/nodes", node)


def refusal(api: ApiClient, path: str) -> tuple[int, str]:
    with pytest.raises(ApiError) as refused:
        api.get(path)
    return refused.value.status, refused.value.reason


def eventually_allowed(api: ApiClient, path: str) -> None:
    """Ask until the authorizer has seen a new binding; it reads them from a watch."""
    deadline = time.monotonic() + PROPAGATION_TIMEOUT_S
    while True:
        try:
            api.get(path)
        except ApiError as error:
            if error.status != 403 or time.monotonic() > deadline:
                raise
        else:
            return
        time.sleep(0.05)


def test_cluster_schedules_a_pod_onto_a_node_that_joined(
    cluster: ControlPlane, kubectl: Kubectl, mint_credential: MintCredential, namespace: str
) -> None:
    credential = mint_credential()
    register(credential.api(), credential.node_name)
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "bound"},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": credential.node_name},
            "containers": [{"name": "c", "image": "none"}],
            # What the node lifecycle controller taints a node with that has not reported yet.
            "tolerations": [{"operator": "Exists"}],
        },
    }
    kubectl("-n", namespace, "apply", "-f", "-", stdin=json.dumps(pod).encode())
    kubectl("-n", namespace, "wait", "pod/bound", "--for=condition=PodScheduled", "--timeout=20s")
    bound = json.loads(kubectl("-n", namespace, "get", "pod", "bound", "-o", "json").stdout)
    assert bound["spec"]["nodeName"] == credential.node_name
    assert cluster.api.get("/version")["gitVersion"] == "v1.36.3"


def test_node_identity_reaches_its_own_objects_and_no_others(
    provoked_cluster: ControlPlane, mint_credential: MintCredential
) -> None:
    credential = mint_credential(cluster=provoked_cluster)
    node = credential.api()
    assert refusal(node, f"/api/v1/nodes/{credential.node_name}") == (404, "NotFound")
    assert refusal(node, "/api/v1/nodes/another-node") == (403, "Forbidden")
    assert refusal(node, "/api/v1/secrets") == (403, "Forbidden")
    assert refusal(node, "/api/v1/namespaces/default/secrets/any") == (403, "Forbidden")
    assert refusal(node, "/api/v1/pods") == (403, "Forbidden")
    register(node, credential.node_name)
    assert node.get(f"/api/v1/nodes/{credential.node_name}")["metadata"]["name"] == credential.node_name
    assert node.get(f"/api/v1/pods?fieldSelector=spec.nodeName%3D{credential.node_name}")["items"] == []


def test_node_restriction_keeps_a_node_from_speaking_for_another(
    provoked_cluster: ControlPlane, mint_credential: MintCredential
) -> None:
    with pytest.raises(ApiError) as refused:
        register(mint_credential(cluster=provoked_cluster).api(), "somebody-else")
    assert refused.value.status == 403


def test_serving_certificate_is_signed_for_the_node_after_approval(
    cluster: ControlPlane, mint_credential: MintCredential
) -> None:
    credential = mint_credential(addresses=["127.0.0.1", "10.9.8.7"])
    certificate = x509.load_pem_x509_certificate(credential.serving.certificate.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "10.9.8.7"]
    assert names.get_values_for_type(x509.DNSName) == [credential.node_name]
    ca = x509.load_pem_x509_certificate(credential.ca_certificate.read_bytes())
    certificate.verify_directly_issued_by(ca)
    requests = cluster.api.get("/apis/certificates.k8s.io/v1/certificatesigningrequests")["items"]
    mine = [r for r in requests if r["spec"]["username"] == f"system:node:{credential.node_name}"]
    assert [r["spec"]["signerName"] for r in mine] == [SERVING_SIGNER]
    assert "system:nodes" in mine[0]["spec"]["groups"]
    ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
        credential.serving.certificate, credential.serving.key
    )


def test_apiserver_may_do_everything_at_a_kubelet(cluster: ControlPlane) -> None:
    review = {
        "spec": {
            "user": "kube-apiserver-kubelet-client",
            "resourceAttributes": {"resource": "nodes", "subresource": "proxy", "verb": "create", "name": "any"},
        }
    }
    answer = cluster.api.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    assert answer["status"]["allowed"]


def test_audit_finds_a_planted_forbidden_request(
    provoked_cluster: ControlPlane, mint_credential: MintCredential
) -> None:
    credential = mint_credential(cluster=provoked_cluster)
    user = f"system:node:{credential.node_name}"
    assert not [e for e in audit.forbidden_node_requests(provoked_cluster.audit_events) if e.user.username == user]
    refusal(credential.api(), "/api/v1/namespaces/kube-system/secrets")
    with pytest.raises(ApiError):
        register(credential.api(), "somebody-else")
    found = [e for e in audit.forbidden_node_requests(provoked_cluster.audit_events) if e.user.username == user]
    assert [(e.verb, e.object.resource, e.decision) for e in found] == [
        ("list", "secrets", "forbid"),
        ("create", "nodes", "allow"),
    ]


def test_audit_finds_what_only_a_role_binding_allowed(
    provoked_cluster: ControlPlane, mint_credential: MintCredential
) -> None:
    credential = mint_credential(cluster=provoked_cluster)
    user = f"system:node:{credential.node_name}"
    binding = {
        "metadata": {"name": f"too-much-{credential.node_name}"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    }
    bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
    provoked_cluster.api.create(bindings, binding)
    try:
        eventually_allowed(credential.api(), "/api/v1/namespaces/default")
    finally:
        provoked_cluster.api.delete(f"{bindings}/too-much-{credential.node_name}")
    outside = [e for e in audit.requests_outside_node_grants(provoked_cluster.audit_events) if e.user.username == user]
    assert outside
    assert {e.object.resource for e in outside} == {"namespaces"}


def test_objects_and_port_survive_a_restart_of_the_apiserver(
    cluster: ControlPlane, mint_credential: MintCredential, namespace: str
) -> None:
    server = cluster.server
    cluster.stop_apiserver()
    with pytest.raises(OSError, match="refused"):
        cluster.api.get("/version")
    cluster.start_apiserver()
    assert cluster.server == server
    assert cluster.api.get(f"/api/v1/namespaces/{namespace}")["metadata"]["name"] == namespace
    # The controllers work again, too: the certificate comes from one of them.
    mint_credential()


def test_daemons_come_up_once_and_down_stops_only_them(tmp_path: Path) -> None:
    bystander = spawn("bystander", ["sleep", "60"], log=tmp_path / "log", lifetime=Lifetime.WITH_PARENT)
    state = RunState(tmp_path / "run")
    started = [*COMPONENTS, "registry", "containerd", "dockerd"]
    try:
        with state.locked():
            first = daemons.ensure_control_plane(state)
            pids = [record.pid for record in state.processes]
            daemons.ensure_control_plane(state)
            registry = daemons.ensure_registry(state)
            engine = daemons.ensure_docker_engine(state)
            assert daemons.ensure_docker_engine(state) == engine
        assert [record.pid for record in state.processes][: len(COMPONENTS)] == pids
        assert [record.name for record in state.processes] == started
        docker = DockerApi(Path(engine.removeprefix("unix://")))
        assert docker.answers()
        # A pid that was reused by somebody else: same number, other start time.
        state.record(ProcessRecord(name="agent", pid=bystander.record.pid, start_identity="other", log=os.devnull))
        script = f'. {state.environment_file} && "$KUBECTL" get namespaces -o name && echo $REGISTRY $DOCKER_HOST'
        shell = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
        assert "namespace/default" in shell.stdout
        assert f"{registry} {engine}" in shell.stdout
    finally:
        stopped = daemons.down(state)
    assert [record.name for record in stopped] == started[::-1]
    assert not first.api.is_ready()
    assert not docker.answers()
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    assert bystander.exit_code() is None
    assert not state.environment_file.exists()
    bystander.stop()


def test_failed_start_names_the_reason_and_leaves_no_process(tmp_path: Path) -> None:
    cluster = ControlPlane(tmp_path / "cluster")
    cluster.directory.mkdir()
    (cluster.directory / "etcd").write_text("not a directory")
    with pytest.raises(ComponentFailed, match=r"(?s)^etcd exited .*not a directory"):
        cluster.start()
    mine = str(tmp_path)
    assert not [p for p in psutil.process_iter(["cmdline"]) if mine in " ".join(p.info["cmdline"] or [])]


def test_components_die_with_a_test_run_that_is_killed(tmp_path: Path) -> None:
    script = (
        "import pathlib, sys, time\n"
        "from tests.cluster.processes import Lifetime, spawn\n"
        "child = spawn('child', ['sleep', '60'], log=pathlib.Path(sys.argv[1]), lifetime=Lifetime.WITH_PARENT)\n"
        "time.sleep(0.5); print(child.record.pid, flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "log")], stdout=subprocess.PIPE) as run:
        assert run.stdout
        pid = int(run.stdout.readline())
        assert start_identity(pid)
        run.kill()
    deadline = time.monotonic() + 5
    while start_identity(pid):
        assert time.monotonic() < deadline, "the child outlived its parent"
        time.sleep(0.02)
