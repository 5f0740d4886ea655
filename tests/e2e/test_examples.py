"""The example manifests, as a reader would apply them."""

from pathlib import Path

import yaml

from tests.cluster.agent import Agent
from tests.support.agent_fixtures import Pods


def applied(pods: Pods, node: Agent, name: str, guest: str, busybox: str) -> None:
    text = Path(f"examples/{name}").read_text()
    text = text.replace("localhost:5000/linux-guest:latest", guest).replace("localhost:5000/busybox:latest", busybox)
    manifest = yaml.safe_load(text)
    spec = manifest["spec"]["template"]["spec"] if manifest["kind"] == "Job" else manifest["spec"]
    spec["nodeSelector"] = {"kubernetes.io/hostname": node.name}  # other tests' nodes are on this cluster too
    pods.apply(manifest)


def test_pod_with_a_sidecar(pods: Pods, node: Agent, guest_image: str, busybox_image: str) -> None:
    applied(pods, node, "pod.yaml", guest_image, busybox_image)
    pods.wait_ready("vm-with-sidecar")
    seen = pods.wait("vm-with-sidecar", lambda _: "beat" in pods.logs("vm-with-sidecar", "-c", "watcher"), "beating")
    assert seen["status"]["podIP"] in pods.logs("vm-with-sidecar", "-c", "watcher")


def test_job(pods: Pods, node: Agent, guest_image: str, busybox_image: str) -> None:
    applied(pods, node, "job.yaml", guest_image, busybox_image)
    pods.kubectl("wait", "--for=condition=Complete", "job/build", "--timeout=100s", timeout_s=120)
    assert pods.logs("job/build").startswith("built on build-")
