"""A container as Docker is asked for it, and what Docker says of one as the port wants it."""

from typing import Any

from vzkubelet import errors
from vzkubelet.ports import (
    ContainerPhase,
    ContainerResources,
    ContainerSecurity,
    ContainerSpec,
    ContainerState,
    ExitStatus,
)
from vzkubelet.sidecars import naming, objects

HOSTNAME_LIMIT = 63
_CPU_PERIOD_US = 100_000
_CPU_QUOTA_MIN_US = 1000
_CPU_SHARES_MIN = 2
_CPU_SHARES_MAX = 262_144
LOG_CONFIG = {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "5", "compress": "false"}}
"""The kubelet's rotation (containerLogMaxSize, containerLogMaxFiles); the engine's defaults may be a driver that cannot
be read back, or no bound at all."""
_NANOSECONDS = 1_000_000_000


def sidecar_config(spec: ContainerSpec, owner: str, sandbox_id: str) -> dict[str, Any]:
    """The body of ``POST /containers/create``. What the pod does not give comes from the image, as Docker merges it."""
    config: dict[str, Any] = {
        "Image": spec.image.image_id,
        "Env": [f"{name}={value}" for name, value in spec.env],
        "Tty": spec.tty,
        "OpenStdin": spec.stdin,
        "StdinOnce": spec.stdin and spec.stdin_once,
        "Labels": {
            **naming.labels(owner, spec.pod, spec.name, spec.attempt),
            naming.IMAGE: spec.image.image_id,
        },
        "HostConfig": {
            "NetworkMode": f"container:{sandbox_id}",
            "IpcMode": f"container:{sandbox_id}",
            "RestartPolicy": {"Name": "no"},
            "LogConfig": LOG_CONFIG,
            "Mounts": [
                {
                    "Type": "bind",
                    "Source": str(mount.source),
                    "Target": mount.mount_path,
                    "ReadOnly": mount.read_only,
                    "BindOptions": {"Propagation": "rprivate"},
                }
                for mount in spec.mounts
            ],
            **_limits(spec.resources),
            **_security(spec.security),
        },
    }
    if spec.command:
        config["Entrypoint"] = list(spec.command)  # Docker then drops the image's Cmd, as Kubernetes wants it
    if spec.args:
        config["Cmd"] = list(spec.args)
    if spec.working_dir:
        config["WorkingDir"] = spec.working_dir
    if spec.user:
        config["User"] = spec.user
    return config


def sandbox_config(spec: ContainerSpec, owner: str, image: str, network: str) -> dict[str, Any]:
    """The pod's network and IPC namespaces, its hostname, and a process that holds them."""
    return {
        "Image": image,
        "Hostname": spec.hostname[:HOSTNAME_LIMIT].rstrip("-."),
        "Labels": naming.labels(owner, spec.pod, naming.SANDBOX_NAME, 0, sandbox=True),
        "HostConfig": {
            "NetworkMode": network,
            "IpcMode": "shareable",
            "RestartPolicy": {"Name": "no"},
            "LogConfig": {"Type": "none", "Config": {}},
            "CpuShares": _CPU_SHARES_MIN,
            "ReadonlyRootfs": True,
        },
    }


def observed(found: objects.Container) -> ContainerState:
    """The state of a side-car that was started at least once."""
    labels = found.config.labels or {}
    state = found.state
    started_ns = objects.epoch_ns(state.started_at)
    # The engine notes the start of a process that ends at once after its end.
    finished_ns = max(started_ns, objects.epoch_ns(state.finished_at))
    attempt = labels.get(naming.ATTEMPT, "")
    running = not has_ended(state.status)
    return ContainerState(
        id=f"docker://{found.id}",
        name=labels.get(naming.CONTAINER, ""),
        attempt=int(attempt) if attempt.isdecimal() else 0,
        phase=ContainerPhase.RUNNING if running else ContainerPhase.EXITED,
        started_at=started_ns / _NANOSECONDS,
        finished_at=0.0 if running else finished_ns / _NANOSECONDS,
        exit=ExitStatus(0 if running else state.exit_code & 0xFF),
        reason="" if running else _reason(state),
        message="" if running else errors.clip(state.error),
        image_id=labels.get(naming.IMAGE, ""),
    )


def has_ended(status: str) -> bool:
    """Whether this word of Docker's means that the process is gone. A container that was only created has not ended."""
    return status in {"exited", "dead", "removing"}


def was_started(status: str) -> bool:
    return status != "created"


def _reason(state: objects.State) -> str:
    if state.oom_killed:
        return "OOMKilled"
    return "Completed" if state.exit_code == 0 else "Error"


def _limits(resources: ContainerResources) -> dict[str, int]:
    """Docker's figures for CPU and memory, computed as the kubelet does."""
    limits = {"CpuShares": _shares(resources.cpu_request_milli)}
    if resources.cpu_limit_milli:
        limits["CpuPeriod"] = _CPU_PERIOD_US
        limits["CpuQuota"] = max(resources.cpu_limit_milli * _CPU_PERIOD_US // 1000, _CPU_QUOTA_MIN_US)
    if resources.memory_limit_bytes:
        limits["Memory"] = limits["MemorySwap"] = resources.memory_limit_bytes  # equal: no swap
    return limits


def _shares(cpu_milli: int) -> int:
    return min(max(cpu_milli * 1024 // 1000, _CPU_SHARES_MIN), _CPU_SHARES_MAX)


def _security(security: ContainerSecurity) -> dict[str, Any]:
    return {
        "ReadonlyRootfs": security.read_only_root,
        "Privileged": security.privileged,
        "CapAdd": [_capability(name) for name in security.capabilities_add],
        "CapDrop": [_capability(name) for name in security.capabilities_drop],
        "SecurityOpt": [] if security.allow_privilege_escalation else ["no-new-privileges"],
        "GroupAdd": [str(group) for group in security.supplemental_groups],
    }


def _capability(name: str) -> str:
    """Kubernetes names them without the prefix; ``ALL`` is no capability but a word of Docker's that takes none."""
    name = name.upper()
    return name if name == "ALL" or name.startswith("CAP_") else f"CAP_{name}"


START_REASONS = frozenset({"CreateContainerError", "RunContainerError", "StartError"})
_MOUNT_MARKS = ("error mounting", "invalid mount", "mounts denied", "mount path", "bind source path")
_SETUP_MARKS = ("network", "no such container", "cannot join", "namespace", "cgroup", "no space left")


def start_fault(exc: errors.Error) -> errors.Error:
    """What a refused start means, by Docker's text: its status is 400 or 500 for nearly everything."""
    if isinstance(exc, errors.Unavailable) and exc.message.startswith("Cannot connect"):
        return errors.Unavailable(exc.message, reason="RunContainerError")
    text = exc.message.lower()
    if any(mark in text for mark in _MOUNT_MARKS):
        return errors.InvalidInput(exc.message, reason="CreateContainerError")
    if "executable file not found" in text or "no such file or directory" in text:
        return errors.NotFound(exc.message, reason="StartError")
    if "permission denied" in text:
        return errors.Forbidden(exc.message, reason="StartError")
    if any(mark in text for mark in _SETUP_MARKS):
        return errors.Unavailable(exc.message, reason="RunContainerError")
    return errors.InvalidInput(exc.message, reason="StartError")
