"""imagePullPolicy and credentials in a cluster: offline starts, the kubelet's back-off, and images of other namespaces.

The machines are synthetic: what is looked at happens before one starts.
"""

import base64
import itertools
import json
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import agent as agents
from tests.cluster.control_plane import ControlPlane
from tests.cluster.docker_engine import DockerEngine
from tests.cluster.node_credential import mint
from tests.cluster.registry import BasicAuth, Registry
from tests.support.agent_fixtures import Pods, container_status
from tests.support.cluster_fixtures import StartRegistry
from tests.support.vm_images import make_files

USER, PASSWORD = "ci", "hunter2"
AUTH = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
PULLED_BEFORE = "already present on machine and can be accessed by the pod"


@pytest.fixture(scope="module")
def plugin_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """The registry that the node's credential provider plugin has a login for."""
    directory = tmp_path_factory.mktemp("plugin-registry")
    with Registry(directory, basic_auth=BasicAuth(USER, PASSWORD)) as registry:
        yield registry


def add_plugin(directory: Path, host: str) -> tuple[str, ...]:
    """A credential provider plugin for one registry, and the agent's flags for it."""
    api, programs = "credentialprovider.kubelet.k8s.io/v1", directory / "plugins"
    answer = {
        "kind": "CredentialProviderResponse",
        "apiVersion": api,
        "cacheKeyType": "Registry",
        "auth": {host: {"username": USER, "password": PASSWORD}},
    }
    programs.mkdir()
    plugin = programs / "login"
    plugin.write_text(f"#!/bin/sh\ncat >> $0.asked\necho '{json.dumps(answer)}'\n")
    plugin.chmod(0o755)
    provider = {"name": "login", "apiVersion": api, "matchImages": [host], "defaultCacheDuration": "1h"}
    document = {"apiVersion": "kubelet.config.k8s.io/v1", "kind": "CredentialProviderConfig", "providers": [provider]}
    (directory / "providers.yaml").write_text(json.dumps(document))
    config = str(directory / "providers.yaml")
    return ("--image-credential-provider-config", config, "--image-credential-provider-bin-dir", str(programs))


@pytest.fixture(scope="module")
def synthetic_node(
    cluster: ControlPlane,
    docker_engine: DockerEngine,
    plugin_registry: Registry,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[agents.Agent]:
    directory, name = tmp_path_factory.mktemp("synthetic-node"), f"vz-{uuid.uuid4().hex[:8]}"
    agent = agents.Agent(
        directory,
        mint(cluster, name, directory / "credential"),
        name=name,
        docker_host=docker_engine.host,
        driver="synthetic",
        flags=add_plugin(directory, plugin_registry.host),
        environment={"DOCKER_CONFIG": str(directory / "docker")},
    )
    agent.start()
    try:
        agent.wait_ready(cluster)
        yield agent
    finally:
        agent.tear_down()
    log = agent.log.read_text()
    assert PASSWORD not in log
    assert AUTH not in log


@dataclass(frozen=True, slots=True)
class Namespace:
    """Pods of one namespace, with one machine each that runs until it is deleted."""

    pods: Pods

    def start(self, name: str, image: str, policy: str = "IfNotPresent", *secrets: str, **spec: Any) -> None:
        references = [{"name": secret} for secret in secrets]
        document = self.pods.pod(
            name,
            vm={"image": image, "imagePullPolicy": policy, "resources": {"requests": {"cpu": "100m"}}},
            **({"imagePullSecrets": references} if references else {}),
            automountServiceAccountToken=False,
            **spec,
        )
        self.pods.apply(document)

    def add_secret(self, name: str, registry: Registry, password: str = PASSWORD) -> None:
        auth = base64.b64encode(f"{USER}:{password}".encode()).decode()
        self.pods.apply(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "type": "kubernetes.io/dockerconfigjson",
                "metadata": {"name": name, "namespace": self.pods.namespace},
                "stringData": {".dockerconfigjson": json.dumps({"auths": {registry.host: {"auth": auth}}})},
            }
        )

    def waits(self, name: str, *reasons: str) -> str:
        """The message of the machine once it waits for one of these reasons."""
        pod = self.pods.wait(name, lambda found: waiting(found)[0] in reasons, " or ".join(reasons))
        assert pod["status"]["phase"] == "Pending"
        return waiting(pod)[1]

    def events(self, name: str) -> list[tuple[str, str]]:
        """Reason and message."""
        return [(reason, message) for _, reason, message in self.pods.events(name)]


def waiting(pod: dict[str, Any], name: str = "vm") -> tuple[str, str]:
    if not pod["status"].get("containerStatuses"):
        return "", ""
    state = container_status(pod, name)["state"].get("waiting", {})
    return state.get("reason", ""), state.get("message", "")


@pytest.fixture
def namespaces(cluster: ControlPlane, synthetic_node: agents.Agent) -> Iterator[tuple[Namespace, Namespace]]:
    """Two of them; all pods are gone when the test is over, and the agent still lives."""
    made = [Pods(cluster, f"{letter}-{uuid.uuid4().hex[:8]}", synthetic_node.name, "none") for letter in "ab"]
    for pods in made:
        cluster.api.create("/api/v1/namespaces", {"metadata": {"name": pods.namespace}})
        pods.kubectl("wait", "--for=create", "serviceaccount/default", "--timeout=30s")
    yield Namespace(made[0]), Namespace(made[1])
    for pods in made:
        pods.kubectl("delete", "pods", "--all", "--wait", "--timeout=60s", timeout_s=90.0)
        cluster.api.delete(f"/api/v1/namespaces/{pods.namespace}")
    assert synthetic_node.child is not None
    assert synthetic_node.child.exit_code() is None, "the agent died"


@pytest.fixture
def namespace_a(namespaces: tuple[Namespace, Namespace]) -> Namespace:
    return namespaces[0]


@pytest.fixture
def namespace_b(namespaces: tuple[Namespace, Namespace]) -> Namespace:
    return namespaces[1]


def push(directory: Path, reference: str, seed: int = 1, login: BasicAuth | None = None) -> None:
    files = make_files(directory / "files", seed)
    user = [] if login is None else ["--username", login.username, "--password", login.password]
    source = ["--disk-path", str(files.disk), "--aux-path", str(files.aux), "--os", "linux", "--arch", "amd64"]
    subprocess.run([agents.program(), "image", "push", *source, *user, reference], check=True, capture_output=True)


def requests(registry: Registry, path: str) -> list[str]:
    """Lines of the registry's access log about pulls."""
    return [line for line in registry.log.read_text().splitlines() if f'"GET /v2/{path}' in line]


# --- Acceptance 7


def test_registry_stopped(namespace_a: Namespace, registry_factory: StartRegistry, tmp_path: Path) -> None:
    registry = registry_factory()
    image = f"{registry.host}/team/vm:1"
    push(tmp_path, image)
    namespace_a.start("first", image)
    namespace_a.pods.wait_ready("first")
    asked = len(requests(registry, "team/vm"))
    assert asked > 0

    namespace_a.start("second", image)
    namespace_a.pods.wait_ready("second")
    assert len(requests(registry, "team/vm")) == asked, "a cached image was asked for"

    registry.stop()
    namespace_a.start("cached", image)
    namespace_a.start("never", image, "Never")
    for name in ("cached", "never"):
        namespace_a.pods.wait_ready(name)
        assert ("Pulled", f'Container image "{image}" {PULLED_BEFORE}') in namespace_a.events(name)

    namespace_a.start("fresh", image, "Always")
    message = namespace_a.waits("fresh", "ErrImagePull")
    assert message.startswith(f'failed to pull image "{image}"')
    assert f"{registry.host} cannot be reached" in message
    assert namespace_a.waits("fresh", "ImagePullBackOff") == (
        f'Back-off pulling image "{image}": ErrImagePull: {message}'
    )
    told = namespace_a.events("fresh")
    assert told[0] == ("Pulling", f'Pulling image "{image}"')
    assert told[1][1].startswith(f'Failed to pull image "{image}": ')
    assert told[2:] == [
        ("Failed", "Error: ErrImagePull"),
        ("BackOff", f'Back-off pulling image "{image}"'),
        ("Failed", "Error: ImagePullBackOff"),
    ]

    pulls = [pulling(namespace_a, "fresh", count) for count in (1, 2)]
    registry.start()
    namespace_a.pods.wait_ready("fresh")
    pulls.append(pulling(namespace_a, "fresh", 3))
    gaps = [later - earlier for earlier, later in itertools.pairwise(pulls)]
    assert gaps == pytest.approx([10.0, 20.0], abs=2.5)
    assert container_status(namespace_a.pods.get("fresh"))["restartCount"] == 0


def pulling(namespace: Namespace, name: str, count: int) -> float:
    """When the pod's image was pulled for the `count`-th time, which has just begun or not yet."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        listed = namespace.pods.kubectl(
            "get", "events", "--field-selector", f"involvedObject.name={name},reason=Pulling", "-o", "json"
        )
        for event in json.loads(listed.stdout)["items"]:
            if event.get("count", 1) >= count:
                return when(event["firstTimestamp" if count == 1 else "lastTimestamp"])
        time.sleep(0.2)
    pytest.fail(f"the image of {name} was not pulled {count} times")


def when(timestamp: str) -> float:
    return time.mktime(time.strptime(timestamp, "%Y-%m-%dT%H:%M:%SZ"))


def test_always_downloads_only_what_is_new(
    namespace_a: Namespace, registry_factory: StartRegistry, tmp_path: Path
) -> None:
    registry = registry_factory()
    image = f"{registry.host}/team/vm:latest"
    push(tmp_path, image)
    for name in ("one", "two"):
        namespace_a.start(name, image, "Always")
        namespace_a.pods.wait_ready(name)
        if name == "one":
            blobs = len(requests(registry, "team/vm/blobs"))
    assert len(requests(registry, "team/vm/blobs")) == blobs, "an image that is here was downloaded again"
    ids = {container_status(namespace_a.pods.get(name))["imageID"] for name in ("one", "two")}
    push(tmp_path, image, seed=2)
    namespace_a.start("stays", image)
    namespace_a.start("moves", image, "Always")
    for name in ("stays", "moves"):
        namespace_a.pods.wait_ready(name)
    assert {container_status(namespace_a.pods.get("stays"))["imageID"]} == ids
    assert container_status(namespace_a.pods.get("moves"))["imageID"] not in ids
    assert len(requests(registry, "team/vm/blobs")) > blobs


def test_never_and_the_default_by_tag(namespace_a: Namespace, registry_factory: StartRegistry) -> None:
    registry = registry_factory()
    image = f"{registry.host}/team/absent:1"
    namespace_a.start("never", image, "Never")
    text = f'Container image "{image}" is not present with pull policy of Never'
    assert namespace_a.waits("never", "ErrImageNeverPull") == text
    assert namespace_a.events("never") == [("ErrImageNeverPull", text), ("Failed", "Error: ErrImageNeverPull")]
    assert requests(registry, "team") == []
    for name, tag, policy in (("latest", "latest", "Always"), ("tagged", "1", "IfNotPresent")):
        document = namespace_a.pods.pod(name, vm={"image": f"{registry.host}/team/absent:{tag}"})
        namespace_a.pods.apply(document)
        assert namespace_a.pods.get(name)["spec"]["containers"][0]["imagePullPolicy"] == policy


# --- Acceptance 8


@dataclass(frozen=True, slots=True)
class Private:
    registry: Registry
    image: str


@pytest.fixture
def private(registry_factory: StartRegistry, tmp_path: Path) -> Private:
    login = BasicAuth(USER, PASSWORD)
    registry = registry_factory(basic_auth=login)
    image = f"{registry.host}/private/vm:1"
    push(tmp_path, image, login=login)
    return Private(registry, image)


def refused(namespace: Namespace, name: str, image: str) -> None:
    """With the registry's word, and without one about the image being here."""
    message = namespace.waits(name, "ErrImagePull", "ImagePullBackOff")
    assert "the registry wants a login" in message
    failed = [text for reason, text in namespace.events(name) if reason == "Failed"]
    assert failed[0].startswith(f'Failed to pull image "{image}": ')
    assert failed[1] == "Error: ErrImagePull"
    told = str([message, namespace.events(name)])
    assert PASSWORD not in told
    assert AUTH not in told
    assert PULLED_BEFORE not in told


def test_private_image_of_one_namespace_is_not_started_by_another(
    namespace_a: Namespace,
    namespace_b: Namespace,
    private: Private,
    synthetic_node: agents.Agent,
    cluster: ControlPlane,
) -> None:
    image = private.image
    namespace_a.add_secret("pull", private.registry)
    namespace_a.start("owner", image, "IfNotPresent", "pull")
    namespace_a.pods.wait_ready("owner")

    namespace_b.start("stranger", image)
    refused(namespace_b, "stranger", image)
    namespace_b.start("quiet", image, "Never")
    text = f'Container image "{image}" is not present with pull policy of Never'
    assert namespace_b.waits("quiet", "ErrImageNeverPull") == text
    namespace_a.start("forgetful", image)  # the same namespace without the secret is no better
    refused(namespace_a, "forgetful", image)
    digest = container_status(namespace_a.pods.get("owner"))["imageID"]
    namespace_b.start("precise", digest)  # whoever knows the digest knows no more
    refused(namespace_b, "precise", digest)

    synthetic_node.kill()
    synthetic_node.start()
    synthetic_node.wait_ready(cluster)
    namespace_b.start("later", image)
    refused(namespace_b, "later", image)

    private.registry.stop()
    namespace_b.add_secret("copy", private.registry)
    namespace_b.add_secret("guess", private.registry, "guess")
    for namespace, name, secret in ((namespace_a, "offline", "pull"), (namespace_b, "invited", "copy")):
        namespace.start(name, image, "IfNotPresent", secret)
        namespace.pods.wait_ready(name)
        assert ("Pulled", f'Container image "{image}" {PULLED_BEFORE}') in namespace.events(name)
    namespace_b.start("guessing", image, "IfNotPresent", "guess")
    assert "cannot be reached" in namespace_b.waits("guessing", "ErrImagePull")


def test_the_registry_vouches_for_another_login(
    namespace_a: Namespace, namespace_b: Namespace, private: Private
) -> None:
    """Pulled without a secret by the service account's, and with a candidate that is refused first."""
    host = private.registry.host
    namespace_a.add_secret("pull", private.registry)
    account = {"imagePullSecrets": [{"name": "pull"}]}
    namespace_a.pods.kubectl("patch", "serviceaccount", "default", "-p", json.dumps(account))
    namespace_a.start("owner", private.image)
    namespace_a.pods.wait_ready("owner")
    assert namespace_a.pods.get("owner")["spec"]["imagePullSecrets"] == [{"name": "pull"}]

    namespace_b.add_secret("wrong", private.registry, "wrong")
    entries = {f"https://{host}/v2/": {"username": USER, "password": PASSWORD}}
    legacy = base64.b64encode(json.dumps(entries).encode()).decode()
    namespace_b.pods.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/dockercfg",
            "metadata": {"name": "legacy", "namespace": namespace_b.pods.namespace},
            "data": {".dockercfg": legacy},
        }
    )
    namespace_b.start("other", private.image, "Always", "wrong", "gone", "legacy")
    namespace_b.pods.wait_ready("other")
    assert (
        "FailedToRetrieveImagePullSecret",
        "Unable to retrieve some image pull secrets (gone); attempting to pull the image may not succeed.",
    ) in namespace_b.events("other")


def test_logins_of_the_node_are_for_all_its_pods(
    namespace_a: Namespace,
    namespace_b: Namespace,
    private: Private,
    plugin_registry: Registry,
    synthetic_node: agents.Agent,
    tmp_path: Path,
) -> None:
    """Of a credential provider plugin, and of ``docker login``, which may happen while the agent runs."""
    of_plugin = f"{plugin_registry.host}/team/vm:1"
    push(tmp_path, of_plugin, login=BasicAuth(USER, PASSWORD))
    docker = synthetic_node.directory / "docker"
    docker.mkdir(exist_ok=True)
    (docker / "config.json").write_text(json.dumps({"auths": {private.registry.host: {"auth": AUTH}}}))
    for kind, image, registry in (
        ("plugin", of_plugin, plugin_registry),
        ("docker", private.image, private.registry),
    ):
        namespace_a.start(kind, image)
        namespace_a.pods.wait_ready(kind)
        registry.stop()
        namespace_b.start(kind, image)
        namespace_b.pods.wait_ready(kind)
        assert ("Pulled", f'Container image "{image}" {PULLED_BEFORE}') in namespace_b.events(kind)
    asked = (synthetic_node.directory / "plugins" / "login.asked").read_text()
    assert json.loads(asked)["image"] == of_plugin.removesuffix(":1")


def test_side_cars_are_held_to_the_same(
    namespace_a: Namespace,
    namespace_b: Namespace,
    private: Private,
    registry: Registry,
    docker_engine: DockerEngine,
    tmp_path: Path,
) -> None:
    machine = f"{registry.host}/public-{uuid.uuid4().hex[:8]}/vm:1"
    push(tmp_path, machine)
    image = docker_engine.push_busybox(private.registry, "private/busybox:1")
    sidecar = {"name": "web", "image": image, "command": ["sleep", "600"], "imagePullPolicy": "IfNotPresent"}
    namespace_a.add_secret("pull", private.registry)
    namespace_a.start("owner", machine, "IfNotPresent", "pull", sidecars=[sidecar])
    namespace_a.pods.wait_ready("owner")

    namespace_b.start("stranger", machine, sidecars=[sidecar])
    pod = namespace_b.pods.wait("stranger", lambda found: waiting(found, "web")[0] == "ErrImagePull", "refused")
    assert waiting(pod, "web")[1].startswith(f'failed to pull image "{image}": ')
    assert container_status(pod)["ready"] is True

    private.registry.stop()
    namespace_a.start("offline", machine, "IfNotPresent", "pull", sidecars=[sidecar])
    namespace_a.pods.wait_ready("offline")
    assert ("Pulled", f'Container image "{image}" {PULLED_BEFORE}') in namespace_a.events("offline")
    namespace_b.add_secret("copy", private.registry)
    namespace_b.start("invited", machine, "IfNotPresent", "copy", sidecars=[sidecar])
    namespace_b.pods.wait_ready("invited")
