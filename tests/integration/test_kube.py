"""The room kube against a real API server, as a node's identity under the Node authorizer and NodeRestriction."""

import asyncio
import base64
import urllib.parse
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster import audit
from tests.cluster.api import ApiClient
from tests.cluster.control_plane import ControlPlane
from tests.integration.kube_support import WatchedPods, connected, pod_body, until, until_true
from tests.integration.network_fault import Relay
from tests.support.cluster_fixtures import MintCredential
from vzkubelet import aio, errors
from vzkubelet.kube.client import Client
from vzkubelet.kube.credentials import Credentials
from vzkubelet.kube.events import EventRecorder
from vzkubelet.kube.kubeconfig import Access, ExecConfig, ExecEnv
from vzkubelet.kube.objects import KubeObjects
from vzkubelet.kube.paths import PODS
from vzkubelet.kube.pod_status import PodStatus
from vzkubelet.kube.reflector import Added, Delta, Reflector
from vzkubelet.kube.reviews import Reviews
from vzkubelet.model.identity import PodRef
from vzkubelet.model.pod import Pod
from vzkubelet.ports import EventType


def make_node(api: ApiClient, name: str) -> None:
    """A Node object that no agent keeps: pods may be bound to it at once."""
    api.create("/api/v1/nodes", {"metadata": {"name": name}, "spec": {}})


def pods_of(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods"


def ref(pod: Pod) -> PodRef:
    return PodRef(pod.metadata.namespace, pod.metadata.name, pod.metadata.uid)


async def test_the_credential_names_its_node(mint_credential: MintCredential) -> None:
    credential = await asyncio.to_thread(mint_credential)
    async with connected(credential) as client:
        assert await client.user_name() == f"system:node:{credential.node_name}"
        assert await Reviews(client).own_name() == f"system:node:{credential.node_name}"


async def test_a_wrong_ca_is_an_unreachable_server_that_says_why(mint_credential: MintCredential) -> None:
    credential = await asyncio.to_thread(mint_credential)
    async with connected(credential, ca=credential.serving.certificate.read_bytes()) as client:
        with pytest.raises(errors.Unavailable, match=r"(?i)certificate verify failed"):
            await client.get("/api", dict)


async def test_another_server_name_is_checked_when_it_is_asked_for(mint_credential: MintCredential) -> None:
    credential = await asyncio.to_thread(mint_credential)
    async with connected(credential, server_name="kubernetes.default.svc") as client:
        assert await client.get("/api", dict)
    async with connected(credential, server_name="somebody.else") as client:
        with pytest.raises(errors.Unavailable, match=r"(?i)hostname mismatch"):
            await client.get("/api", dict)
    async with connected(credential, server_name="somebody.else", ca=b"", insecure=True) as client:
        assert await client.get("/api", dict)


async def test_a_pod_is_seen_reported_and_deleted(
    cluster: ControlPlane, namespace: str, mint_credential: MintCredential
) -> None:
    credential = await asyncio.to_thread(mint_credential)
    node = credential.node_name
    make_node(cluster.api, node)
    async with connected(credential) as client, WatchedPods(client, node).running() as watched:
        await until(lambda: watched.syncs == 1, "the first list")
        cluster.api.create(pods_of(namespace), pod_body("a", node))
        await until(lambda: "a" in watched.pods, "the pod is seen")
        pod = watched.pods["a"]
        writer = PodStatus(client)
        stored = await writer.write_status(pod, b'{"status":{"phase":"Running","podIP":"10.1.2.3"}}')
        assert (stored.status.phase, stored.status.pod_ip) == ("Running", "10.1.2.3")
        await until(lambda: watched.pods["a"].status.phase == "Running", "the reflector sees the status")
        await writer.delete(ref(pod))
        await until(lambda: not watched.pods, "the deletion is seen")
        await writer.delete(ref(pod))
        with pytest.raises(errors.NotFound):
            await writer.write_status(pod, b'{"status":{"phase":"Failed"}}')
    assert [d for d in watched.deltas if d[0] != "Modified"] == [("Added", "a"), ("Deleted", "a")]


async def test_a_pod_that_was_made_again_is_never_touched(
    cluster: ControlPlane, namespace: str, mint_credential: MintCredential
) -> None:
    credential = await asyncio.to_thread(mint_credential)
    node = credential.node_name
    make_node(cluster.api, node)
    async with connected(credential) as client, WatchedPods(client, node).running() as watched:
        cluster.api.create(pods_of(namespace), pod_body("a", node))
        await until(lambda: "a" in watched.pods, "the pod is seen")
        old = watched.pods["a"]
        cluster.run_kubectl("delete", "pod", "a", "-n", namespace, "--force", "--grace-period=0")
        cluster.api.create(pods_of(namespace), pod_body("a", node))
        writer = PodStatus(client)
        with pytest.raises(errors.NotFound, match="another one has its name"):
            await writer.write_status(old, b'{"status":{"phase":"Failed"}}')
        await writer.delete(ref(old))
        now = cluster.api.get(f"{pods_of(namespace)}/a")
        assert now["metadata"]["uid"] != old.metadata.uid
        assert now["status"]["phase"] == "Pending"


async def test_what_a_pod_refers_to_is_readable_right_after_its_binding(
    provoked_cluster: ControlPlane, mint_credential: MintCredential
) -> None:
    cluster, namespace = provoked_cluster, "default"  # the read before the binding is refused, as it should be
    credential = await asyncio.to_thread(lambda: mint_credential(cluster=cluster))
    node = credential.node_name
    make_node(cluster.api, node)
    await until_true(
        lambda: any(
            a["metadata"]["name"] == "default"
            for a in cluster.api.get(f"/api/v1/namespaces/{namespace}/serviceaccounts")["items"]
        ),
        "the service account",
    )
    core = f"/api/v1/namespaces/{namespace}"
    secret = {"metadata": {"name": "s"}, "data": {"k": base64.b64encode(b"v").decode()}}
    cluster.api.create(f"{core}/secrets", secret)
    cluster.api.create(f"{core}/configmaps", {"metadata": {"name": "c"}, "data": {"k": "v"}})
    env = [
        {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
        {"name": "C", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}},
    ]
    projected = {"sources": [{"serviceAccountToken": {"path": "t", "audience": "vault"}}]}
    body = pod_body(
        "a",
        node,
        containers=[{"name": "main", "image": "i", "env": env}],
        volumes=[{"name": "t", "projected": projected}],
    )
    async with connected(credential) as client, WatchedPods(client, node).running() as watched:
        objects = KubeObjects(client)
        with pytest.raises(errors.Forbidden, match="no relationship found"):
            await objects.secret(namespace, "s")
        cluster.api.create(pods_of(namespace), body)
        await until(lambda: "a" in watched.pods, "the pod is seen")
        got = await objects.secret(namespace, "s")
        assert got.data == {"k": b"v"}
        assert (await objects.config_map(namespace, "c")).data == {"k": "v"}
        token = await objects.service_account_token(watched.pods["a"], "vault", 600)
        claims = token.split(".")[1]
        assert b'"vault"' in base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4))
        names = [service.metadata.name for service in await objects.services(namespace)]
        assert names == ["kubernetes"]


async def test_no_read_after_a_binding_is_refused(
    cluster: ControlPlane, namespace: str, mint_credential: MintCredential
) -> None:
    credential = await asyncio.to_thread(mint_credential)
    node = credential.node_name
    make_node(cluster.api, node)
    missing: list[str] = []

    async with connected(credential) as client:
        objects = KubeObjects(client)
        reads: list[asyncio.Task[None]] = []

        async def read(name: str) -> None:
            try:
                await objects.secret(namespace, name)
            except errors.NotFound as exc:
                missing.append(str(exc))

        def on_delta(delta: Delta[Pod]) -> None:
            if isinstance(delta, Added):
                objects.pod_bound(namespace)
                reads.append(aio.spawn(read(f"of-{delta.object.metadata.name}"), name="read"))

        watch = Reflector(client, PODS, Pod, on_delta, field_selector=f"spec.nodeName={node}")
        watching = aio.spawn(watch.run(), name="watch")
        for number in range(20):
            env = [{"name": "S", "valueFrom": {"secretKeyRef": {"name": f"of-p{number}", "key": "k"}}}]
            container = {"name": "main", "image": "i", "env": env}
            body = pod_body(f"p{number}", node, containers=[container])
            await asyncio.to_thread(cluster.api.create, pods_of(namespace), body)
        await until(lambda: len(reads) == 20, "all pods are seen")
        await asyncio.gather(*reads)
        await aio.cancel(watching)
    assert sorted(missing) == sorted(f'secret "of-p{number}" not found' for number in range(20))
    refused = audit.forbidden_node_requests(cluster.audit_events)
    assert [str(e) for e in refused if e.user.username.endswith(node)] == []


async def test_events_are_found_by_kubectl(
    cluster: ControlPlane, namespace: str, mint_credential: MintCredential
) -> None:
    credential = await asyncio.to_thread(mint_credential)
    node = credential.node_name
    make_node(cluster.api, node)
    cluster.api.create(pods_of(namespace), pod_body("a", node))
    uid = cluster.api.get(f"{pods_of(namespace)}/a")["metadata"]["uid"]
    async with connected(credential) as client:
        recorder = EventRecorder(client, node)
        recorder.start()
        for _ in range(3):
            recorder.pod_event(PodRef(namespace, "a", uid), EventType.WARNING, "BackOff", "again", container="main")
        recorder.node_event(EventType.NORMAL, "Starting", "Starting kubelet.")
        await recorder.close()
    [event] = cluster.api.get(f"/api/v1/namespaces/{namespace}/events?fieldSelector=involvedObject.name%3Da")["items"]
    assert (event["reason"], event["count"], event["type"]) == ("BackOff", 3, "Warning")
    assert event["involvedObject"]["fieldPath"] == "spec.containers{main}"
    assert event["source"] == {"component": "kubelet", "host": node}
    described = cluster.run_kubectl("describe", "pod", "a", "-n", namespace).stdout.decode()
    assert "BackOff" in described
    assert "(x3 over" in described
    assert "Starting kubelet." in cluster.run_kubectl("describe", "node", node).stdout.decode()


async def test_reviews_are_answered(cluster: ControlPlane, namespace: str, mint_credential: MintCredential) -> None:
    credential = await asyncio.to_thread(mint_credential)
    created = cluster.run_kubectl("create", "serviceaccount", "robot", "-n", namespace)
    assert created.returncode == 0
    token = cluster.run_kubectl("create", "token", "robot", "-n", namespace).stdout.decode().strip()
    async with connected(credential) as client:
        reviews = Reviews(client)
        user = await reviews.token_review(token)
        assert user is not None
        assert user.username == f"system:serviceaccount:{namespace}:robot"
        assert await reviews.token_review("rubbish") is None

        async def may(name: str, groups: list[str]) -> bool:
            return await reviews.subject_access_review(
                user=name, groups=groups, verb="get", resource="nodes", subresource="stats", name=credential.node_name
            )

        assert not await may(user.username, user.groups or [])
        assert await may("kubernetes-admin", ["system:masters"])


async def test_deletions_during_an_outage_are_synthesized_after_the_watch_position_is_gone(
    cluster_factory: Callable[[], ControlPlane], mint_credential: MintCredential
) -> None:
    cluster = await asyncio.to_thread(cluster_factory)
    credential = await asyncio.to_thread(lambda: mint_credential(cluster=cluster))
    node = credential.node_name
    make_node(cluster.api, node)
    for name in ("stays", "goes", "changes"):
        cluster.api.create(pods_of("default"), pod_body(name, node))
    target = urllib.parse.urlsplit(cluster.server)
    assert target.hostname is not None
    assert target.port is not None
    async with (
        Relay(target.hostname, target.port) as relay,
        connected(credential, server=relay.url) as client,
        WatchedPods(client, node).running() as watched,
    ):
        await until(lambda: len(watched.pods) == 3, "all pods are seen")
        await relay.cut()
        delete = ("delete", "pod", "goes", "--force", "--grace-period=0")
        await asyncio.to_thread(cluster.run_kubectl, *delete)
        await asyncio.to_thread(cluster.run_kubectl, "annotate", "pod", "changes", "a=b")
        await asyncio.to_thread(cluster.api.create, pods_of("default"), pod_body("comes", node))
        # A fresh API server knows no event of before, so the old position is gone.
        await asyncio.to_thread(cluster.restart_apiserver)
        before = len(watched.deltas)
        relay.mend()
        await until(lambda: watched.syncs == 2, "the second list")
        assert sorted(watched.deltas[before:]) == [("Added", "comes"), ("Deleted", "goes"), ("Modified", "changes")]
        await asyncio.to_thread(cluster.run_kubectl, "delete", "pod", "stays", "--force", "--grace-period=0")
        await until(lambda: "stays" not in watched.pods, "the watch goes on")


async def test_a_crashed_api_server_is_waited_for(
    cluster_factory: Callable[[], ControlPlane], mint_credential: MintCredential
) -> None:
    cluster = await asyncio.to_thread(cluster_factory)
    credential = await asyncio.to_thread(lambda: mint_credential(cluster=cluster))
    node = credential.node_name
    make_node(cluster.api, node)
    async with connected(credential) as client, WatchedPods(client, node).running() as watched:
        await until(lambda: watched.syncs == 1, "the first list")
        await asyncio.to_thread(cluster.kill_apiserver)
        with pytest.raises(errors.Unavailable, match="cannot be reached"):
            await client.get("/api", dict)
        await asyncio.to_thread(cluster.start_apiserver)
        await asyncio.to_thread(cluster.api.create, pods_of("default"), pod_body("a", node))
        await until(lambda: "a" in watched.pods, "the pod is seen", 90)


async def test_a_silent_connection_times_out(cluster: ControlPlane, mint_credential: MintCredential) -> None:
    credential = await asyncio.to_thread(mint_credential)
    target = urllib.parse.urlsplit(cluster.server)
    assert target.hostname is not None
    assert target.port is not None
    async with Relay(target.hostname, target.port) as relay, connected(credential, server=relay.url) as client:
        assert await client.get("/api", dict)
        relay.silence()
        with pytest.raises(errors.DeadlineExceeded, match="no answer in 1 s"):
            await client.request("GET", "/api", dict, timeout_s=1)
        relay.mend()
        assert await client.get("/api", dict)


async def test_a_credential_plugin_logs_in(
    cluster: ControlPlane, namespace: str, tmp_path: Path, mint_credential: MintCredential
) -> None:
    cluster.run_kubectl("create", "serviceaccount", "robot", "-n", namespace)
    (tmp_path / "token").write_bytes(cluster.run_kubectl("create", "token", "robot", "-n", namespace).stdout.strip())
    plugin = tmp_path / "login"
    plugin.write_text(
        "#!/bin/sh\n"
        f'printf "%s\\n" "$KUBERNETES_EXEC_INFO" >> {tmp_path}/runs\n'
        '[ "$MODE" = fail ] && { echo "no such user" >&2; exit 3; }\n'
        'printf \'{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1","status":{"token":"%s"}}\' '
        f'"$(cat {tmp_path}/token)"\n'
    )
    plugin.chmod(0o700)

    def access(mode: str, command: str = "./login") -> Access:
        config = ExecConfig(
            api_version="client.authentication.k8s.io/v1",
            command=command,
            env=[ExecEnv("MODE", mode)],
            install_hint="get it from the shop",
        )
        ca = cluster.pki.ca.certificate.read_bytes()
        return Access(cluster.server, ca=ca, exec=config, exec_directory=tmp_path)

    client = Client(Credentials(access("work"), environment={"PATH": "/bin:/usr/bin"}))
    try:
        names = await asyncio.gather(*(Reviews(client).own_name() for _ in range(5)))
    finally:
        await client.close()
    assert set(names) == {f"system:serviceaccount:{namespace}:robot"}
    assert len((tmp_path / "runs").read_text().splitlines()) == 1
    with pytest.raises(errors.Unauthenticated, match="exit code 3: no such user"):
        await Credentials(access("fail")).authenticate()
    with pytest.raises(errors.InvalidInput, match="get it from the shop"):
        await Credentials(access("work", "./none")).authenticate()
