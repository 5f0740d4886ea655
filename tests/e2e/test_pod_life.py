"""A pod's life on a real cluster: its machine, its side-car, its end."""

from typing import Any

from tests.support.agent_fixtures import Pods, container_status, is_ready

SHARED = {"volumes": [{"name": "shared", "emptyDir": {}}]}


def sidecar(image: str, *command: str) -> dict[str, Any]:
    return {
        "name": "side",
        "image": image,
        "command": list(command),
        "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        "volumeMounts": [{"name": "shared", "mountPath": "/shared"}],
    }


def test_machine_and_sidecar_share_a_directory_and_an_address(pods: Pods, busybox_image: str) -> None:
    mount = {"volumeMounts": [{"name": "shared", "mountPath": "/mnt/shared"}]}
    wait_for_side = "until [ -s /mnt/shared/side ]; do sleep 0.2; done; cat /mnt/shared/side"
    write = f"echo from-vm > /mnt/shared/vm; {wait_for_side}; sleep 600"
    read = "until [ -s /shared/vm ]; do sleep 0.2; done; echo from-$POD_IP > /shared/side; cat /shared/vm; sleep 600"
    side = sidecar(busybox_image, "sh", "-c", read)
    pods.apply(pods.pod("both", "sh", "-c", write, vm=mount, sidecars=[side], **SHARED))
    pod = pods.wait(
        "both", lambda found: is_ready(found) and "from-" in pods.logs("both", "-c", "vm"), "Ready with both logs"
    )
    assert pods.logs("both", "-c", "side") == "from-vm\n"
    assert pods.logs("both", "-c", "vm") == f"from-{pod['status']['podIP']}\n"
    assert pods.exec("both", "hostname").stdout == b"both\n"
    reasons = [reason for _, reason, _ in pods.events("both")]
    assert {"Pulled", "Created", "Started"} <= set(reasons)


def test_sidecar_and_machine_reach_each_other_by_the_pod_address(pods: Pods, busybox_image: str) -> None:
    serve = "while :; do echo hello from the machine | nc -l -p 9000; done"
    ask = "until nc $POD_IP 9000 > /tmp/answer && [ -s /tmp/answer ]; do sleep 0.3; done; cat /tmp/answer; sleep 600"
    side = {**sidecar(busybox_image, "sh", "-c", ask), "volumeMounts": []}
    pods.apply(pods.pod("talk", "sh", "-c", serve, sidecars=[side]))
    pods.wait_ready("talk")
    pods.wait("talk", lambda _: pods.logs("talk", "-c", "side") == "hello from the machine\n", "answered", 60)


def test_environment_comes_from_everywhere(pods: Pods) -> None:
    names = {"apiVersion": "v1", "metadata": {"name": "settings", "namespace": pods.namespace}}
    env = [
        {"name": "PLAIN", "value": "a b'c\"$(MISSING)"},
        {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "settings", "key": "password"}}},
        {"name": "CONFIG", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "mode"}}},
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": "BOTH", "value": "$(CONFIG)-$(NODE)"},
    ]
    pods.apply(
        {**names, "kind": "Secret", "stringData": {"password": "hidden\nvalue"}},
        {**names, "kind": "ConfigMap", "data": {"mode": "fast"}},
        pods.pod("env", "sh", "-c", 'printf "%s|" "$PLAIN" "$SECRET" "$CONFIG" "$NODE" "$BOTH"', vm={"env": env}),
    )
    pod = pods.wait_phase("env", "Succeeded")
    node = pod["spec"]["nodeName"]
    assert pods.logs("env") == f"a b'c\"$(MISSING)|hidden\nvalue|fast|{node}|fast-{node}|"


def test_job_retries_a_failing_command_and_completes_a_good_one(pods: Pods) -> None:
    def job(name: str, command: str) -> dict[str, Any]:
        spec = pods.pod(name, "sh", "-c", command)["spec"]
        metadata = {"name": name, "namespace": pods.namespace}
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": metadata,
            "spec": {"backoffLimit": 1, "template": {"spec": spec}},
        }

    pods.apply(job("good", "echo done"), job("bad", "exit 3"))
    pods.kubectl("wait", "--for=condition=Complete", "job/good", "--timeout=100s", timeout_s=120)
    pods.kubectl("wait", "--for=condition=Failed", "job/bad", "--timeout=100s", timeout_s=120)
    assert pods.logs("job/good") == "done\n"
    codes = pods.kubectl(
        "get",
        "pods",
        "-l",
        "job-name=bad",
        "-o",
        "jsonpath={.items[*].status.containerStatuses[0].state.terminated.exitCode}",
    ).stdout
    assert codes == b"3 3"


def test_restarted_machine_is_a_fresh_clone_and_the_volume_lives_on(pods: Pods) -> None:
    count = (
        "echo x >> /mnt/shared/starts; echo x >> /root/starts; wc -l < /mnt/shared/starts; wc -l < /root/starts; "
        "[ $(wc -l < /mnt/shared/starts) = 2 ] && sleep 600; exit 1"
    )
    mount = {"volumeMounts": [{"name": "shared", "mountPath": "/mnt/shared"}]}
    pods.apply(pods.pod("again", "sh", "-c", count, vm=mount, restartPolicy="OnFailure", **SHARED))
    pod = pods.wait(
        "again", lambda found: container_status(found)["restartCount"] == 1 and is_ready(found), "restarted"
    )
    assert pods.logs("again", "--previous").split() == ["1", "1"]
    pods.wait("again", lambda _: pods.logs("again").split() == ["2", "1"], "a fresh clone with its old volume")
    status = container_status(pod)
    assert status["lastState"]["terminated"]["exitCode"] == 1


def test_graceful_deletion_lets_the_process_end_by_itself(pods: Pods) -> None:
    command = "trap 'echo goodbye; exit 0' TERM; echo ready; while :; do sleep 0.1; done"
    body = pods.pod("polite", "sh", "-c", command, terminationGracePeriodSeconds=20)
    # Keeps the object after its deletion: its end is looked at, not raced for.
    body["metadata"]["finalizers"] = ["example.com/looked-at"]
    pods.apply(body)
    try:
        pods.wait_ready("polite")
        pods.wait("polite", lambda _: pods.logs("polite") == "ready\n", "listening")
        assert b"deleted" in pods.kubectl("delete", "pod", "polite", "--wait=false").stdout
        ended = pods.wait_phase("polite", "Succeeded", "Failed")
        assert ended["status"]["phase"] == "Succeeded"
        assert container_status(ended)["state"]["terminated"]["exitCode"] == 0
    finally:
        pods.kubectl("patch", "pod", "polite", "--type=merge", "-p", '{"metadata":{"finalizers":null}}', check=False)


def test_forced_deletion_leaves_no_machine(pods: Pods) -> None:
    pods.apply(pods.pod("forced", "sleep", "600"))
    pods.wait_ready("forced")
    pods.kubectl("delete", "pod", "forced", "--grace-period=0", "--force")
    # The fixture's agent removes the machine although nobody asks any more; its own tear-down would fail otherwise.
    pods.apply(pods.pod("forced", "sleep", "600"))
    pods.wait_ready("forced")


def test_machine_without_a_command_logs_its_console_and_ends_with_its_power(pods: Pods) -> None:
    pods.apply(pods.pod("console"))
    pods.wait_ready("console")
    assert "Linux version" in pods.logs("console") or pods.logs("console") != ""
    pods.exec("console", "poweroff", check=False)
    pod = pods.wait_phase("console", "Succeeded", "Failed")
    assert container_status(pod)["state"]["terminated"]["reason"] == "Completed"


def test_requests_size_the_machine(pods: Pods) -> None:
    resources = {"requests": {"cpu": "1500m", "memory": "300Mi"}}
    pods.apply(
        pods.pod("sized", "sh", "-c", "nproc; awk '/MemTotal/ {print $2}' /proc/meminfo", vm={"resources": resources})
    )
    pods.wait_phase("sized", "Succeeded")
    cpus, memory_kib = map(int, pods.logs("sized").split())
    assert cpus == 2
    assert 200 * 1024 < memory_kib <= 300 * 1024
