"""What users get wrong, and what breaks around the node: the kubelet's own reason, nothing left behind."""

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import agent as agents
from tests.cluster.registry import BasicAuth
from tests.support.agent_fixtures import Pods, container_status
from tests.support.cluster_fixtures import StartRegistry


def waiting(pod: dict[str, Any]) -> tuple[str, str]:
    state = container_status(pod)["state"].get("waiting", {}) if pod["status"].get("containerStatuses") else {}
    return state.get("reason", ""), state.get("message", "")


def wait_for_reason(pods: Pods, name: str, *reasons: str) -> str:
    """The message of the waiting container once it waits for one of these reasons; the pod is still Pending."""
    pod = pods.wait(name, lambda found: waiting(found)[0] in reasons, " or ".join(reasons))
    assert pod["status"]["phase"] == "Pending"
    return waiting(pod)[1]


def with_image(pods: Pods, name: str, image: str, **spec: Any) -> dict[str, Any]:
    return pods.pod(name, "true", vm={"image": image, "imagePullPolicy": "Always"}, **spec)


def test_malformed_reference(pods: Pods) -> None:
    pods.apply(with_image(pods, "malformed", "Not A Reference"))
    assert "invalid reference format" in wait_for_reason(pods, "malformed", "InvalidImageName")
    assert ("Warning", "InspectFailed") in [event[:2] for event in pods.events("malformed")]


def test_missing_tag(pods: Pods, guest_image: str) -> None:
    pods.apply(with_image(pods, "untagged", guest_image.replace(":latest", ":absent")))
    message = wait_for_reason(pods, "untagged", "ErrImagePull", "ImagePullBackOff")
    assert "not found" in message
    pods.wait("untagged", lambda found: waiting(found)[0] == "ImagePullBackOff", "backing off")
    events = pods.events("untagged")
    assert any(reason == "Failed" and "Failed to pull image" in text for _, reason, text in events)
    assert any(reason == "BackOff" and "Back-off pulling image" in text for _, reason, text in events)


def test_registry_down(pods: Pods, registry_factory: StartRegistry) -> None:
    registry = registry_factory()
    registry.stop()
    pods.apply(with_image(pods, "down", f"{registry.host}/linux-guest:latest"))
    assert registry.host in wait_for_reason(pods, "down", "ErrImagePull", "ImagePullBackOff")


def test_wrong_and_right_credentials(pods: Pods, guest_directory: Any, registry_factory: StartRegistry) -> None:
    registry = registry_factory(basic_auth=BasicAuth("user", "right"))
    image = f"{registry.host}/private/linux-guest:latest"
    agents.push_guest(guest_directory, image, "--username", "user", "--password", "right")

    def secret(name: str, password: str) -> dict[str, Any]:
        auth = base64.b64encode(f"user:{password}".encode()).decode()
        config = json.dumps({"auths": {registry.host: {"auth": auth}}})
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/dockerconfigjson",
            "metadata": {"name": name, "namespace": pods.namespace},
            "stringData": {".dockerconfigjson": config},
        }

    pods.apply(
        secret("wrong", "hush-hush"),
        secret("right", "right"),
        with_image(pods, "denied", image, imagePullSecrets=[{"name": "wrong"}]),
        with_image(pods, "allowed", image, imagePullSecrets=[{"name": "right"}]),
    )
    pods.wait_phase("allowed", "Succeeded")
    message = wait_for_reason(pods, "denied", "ErrImagePull", "ImagePullBackOff")
    told = [message, *(text for _, _, text in pods.events("denied"))]
    assert not any("hush" in text or base64.b64encode(b"user:hush-hush").decode() in text for text in told)
    assert any(word in message.lower() for word in ("unauthorized", "credential", "authentication", "login"))


def test_ordinary_container_image_as_a_machine(pods: Pods, busybox_image: str) -> None:
    pods.apply(with_image(pods, "container", busybox_image))
    message = wait_for_reason(pods, "container", "ErrImagePull", "ImagePullBackOff")
    assert "virtual machine" in message or "artifact" in message


def test_missing_secret_is_told_before_a_machine_boots(pods: Pods) -> None:
    env = [{"name": "S", "valueFrom": {"secretKeyRef": {"name": "absent", "key": "k"}}}]
    pods.apply(pods.pod("secretless", "true", vm={"env": env}))
    assert wait_for_reason(pods, "secretless", "CreateContainerConfigError") == 'secret "absent" not found'
    assert ("Warning", "Failed", 'Error: secret "absent" not found') in pods.events("secretless")


def test_missing_secret_volume(pods: Pods) -> None:
    volume = {"volumes": [{"name": "v", "secret": {"secretName": "absent"}}]}
    mount = {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}
    pods.apply(pods.pod("volumeless", "true", vm=mount, **volume))
    pods.wait(
        "volumeless",
        lambda _: any(
            event[1] == "FailedMount" and 'secret "absent" not found' in event[2] for event in pods.events("volumeless")
        ),
        "refused for its volume",
    )
    assert pods.get("volumeless")["status"]["phase"] == "Pending"


@pytest.mark.parametrize(("resource", "amount"), [("memory", "64Gi"), ("cpu", "100")])
def test_more_than_the_node_has(pods: Pods, resource: str, amount: str) -> None:
    pods.apply(pods.pod("big", "true", vm={"resources": {"requests": {resource: amount}}}))
    status = pods.wait_phase("big", "Failed")["status"]
    assert status["reason"] == f"OutOf{resource}"
    assert status["message"].startswith(f"Pod was rejected: Node didn't have enough resource: {resource}, requested: ")
    assert status["reason"] in [event[1] for event in pods.events("big")]


def test_program_that_does_not_exist(pods: Pods) -> None:
    pods.apply(pods.pod("noprogram", "no-such-program"))
    status = container_status(pods.wait_phase("noprogram", "Failed"))
    assert status["state"]["terminated"]["reason"] == "StartError"
    assert "no-such-program" in status["state"]["terminated"]["message"]


def test_corrupted_layer_is_never_used(
    pods: Pods, guest_directory: Path, registry_factory: StartRegistry, tmp_path: Path
) -> None:
    registry = registry_factory()
    image = f"{registry.host}/corrupt/linux-guest:latest"
    other = tmp_path / "other"
    shutil.copytree(guest_directory, other)
    with (other / "disk.img").open("r+b") as disk:  # a content that the node does not have yet
        disk.write(b"another disk")
    agents.push_guest(other, image)
    registry.corrupt_blob(_disk_digest(registry.host, "corrupt/linux-guest"))
    pods.apply(with_image(pods, "corrupt", image))
    assert "damaged" in wait_for_reason(pods, "corrupt", "ErrImagePull", "ImagePullBackOff")


def test_layer_title_that_leads_out_of_the_store(
    pods: Pods, guest_directory: Any, registry_factory: StartRegistry
) -> None:
    registry = registry_factory()
    agents.push_guest(guest_directory, f"{registry.host}/hostile/linux-guest:latest")
    manifest = _manifest(registry.host, "hostile/linux-guest")
    manifest["layers"][0]["annotations"]["org.opencontainers.image.title"] = "../../x"
    _put_manifest(registry.host, "hostile/linux-guest", "escaping", manifest)
    pods.apply(with_image(pods, "hostile", f"{registry.host}/hostile/linux-guest:escaping"))
    assert "../../x" in wait_for_reason(pods, "hostile", "ErrImagePull", "ImagePullBackOff")


def test_artifact_of_another_type(pods: Pods, guest_directory: Any, registry_factory: StartRegistry) -> None:
    registry = registry_factory()
    agents.push_guest(guest_directory, f"{registry.host}/other/linux-guest:latest")
    manifest = _manifest(registry.host, "other/linux-guest")
    manifest["artifactType"] = "application/vnd.example.song"
    for layer in manifest["layers"]:
        layer["mediaType"] = "application/vnd.example.song"
    _put_manifest(registry.host, "other/linux-guest", "song", manifest)
    pods.apply(with_image(pods, "song", f"{registry.host}/other/linux-guest:song"))
    assert "application/vnd.example.song" in wait_for_reason(pods, "song", "ErrImagePull", "ImagePullBackOff")


def _request(host: str, method: str, path: str, body: bytes | None = None, media_type: str = "") -> bytes:
    import http.client

    connection = http.client.HTTPConnection(host, timeout=20)
    accepted = "application/vnd.oci.image.manifest.v1+json"
    connection.request(method, path, body, {"Accept": accepted, **({"Content-Type": media_type} if media_type else {})})
    response = connection.getresponse()
    content = response.read()
    connection.close()
    assert response.status < 300, content
    return content


def _manifest(host: str, repository: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_request(host, "GET", f"/v2/{repository}/manifests/latest"))
    return found


def _put_manifest(host: str, repository: str, tag: str, manifest: dict[str, Any]) -> None:
    body = json.dumps(manifest).encode()
    _request(host, "PUT", f"/v2/{repository}/manifests/{tag}", body, manifest["mediaType"])


def _disk_digest(host: str, repository: str) -> str:
    layers = _manifest(host, repository)["layers"]
    return str(next(layer["digest"] for layer in layers if "disk" in layer["mediaType"]))
