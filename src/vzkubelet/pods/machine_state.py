"""What the machine runtime keeps of a container on disk, and what it makes of it for others."""

import hashlib
from enum import StrEnum

import msgspec

from vzkubelet import ports

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""As Docker and containerd set it where neither image nor pod does."""


class Phase(StrEnum):
    PREPARING = "preparing"
    """The machine is being made; its start goes on after a restart of the daemon."""
    RUNNING = "running"
    EXITED = "exited"


class Process(msgspec.Struct, frozen=True):
    """The guest process as it was started, for exec and for following it after a restart."""

    id: str
    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    working_dir: str = ""
    user: str = ""
    stdin: bool = False

    def port(self) -> ports.GuestProcess:
        return ports.GuestProcess(self.id, self.argv, self.env, self.working_dir, self.user, self.stdin)


class MachineContainer(msgspec.Struct, frozen=True):
    """One attempt of a pod's first container."""

    name: str
    attempt: int
    id: str
    image_id: str
    os: str = "darwin"
    """Of the guest; one whose record does not say it may hold a slot of macOS guests."""
    phase: Phase = Phase.PREPARING
    address: str = ""
    process: Process | None = None
    """None = the container is the machine itself and its log is the console."""
    log: str = ""
    """Path of the attempt's log."""
    started_at: float = 0.0
    finished_at: float = 0.0
    exit_code: int = 0
    signal: int = 0
    reason: str = ""
    message: str = ""

    def observed(self) -> ports.ContainerState:
        """As the pod worker sees it."""
        return ports.ContainerState(
            id=self.id,
            name=self.name,
            attempt=self.attempt,
            phase=ports.ContainerPhase.EXITED if self.phase is Phase.EXITED else ports.ContainerPhase.RUNNING,
            started_at=self.started_at,
            finished_at=self.finished_at,
            exit=ports.ExitStatus(self.exit_code, self.signal),
            reason=self.reason,
            message=self.message,
            image_id=self.image_id,
            address=self.address,
        )

    def exited(self, code: int, signal: int, reason: str, message: str, now: float) -> "MachineContainer":
        return msgspec.structs.replace(
            self,
            phase=Phase.EXITED,
            exit_code=code,
            signal=signal,
            reason=reason,
            message=message,
            finished_at=max(now, self.started_at),
        )


def container_id(driver: str, uid: str, name: str, attempt: int) -> str:
    """``driver://<64 hex digits>``: the same for the same attempt, whoever asks and whenever."""
    return f"{driver}://{hashlib.sha256(f'{uid}/{name}/{attempt}'.encode()).hexdigest()}"


def combined_argv(spec: ports.ContainerSpec, defaults: ports.ImageDefaults) -> tuple[str, ...]:
    """Command and args of the pod with entrypoint and cmd of the image, as Kubernetes combines them."""
    if spec.command is not None:
        return spec.command + (spec.args or ())
    if spec.args is not None:
        return (defaults.entrypoint or ()) + spec.args
    return (defaults.entrypoint or ()) + (defaults.cmd or ())


def combined_env(spec: ports.ContainerSpec, defaults: ports.ImageDefaults) -> tuple[tuple[str, str], ...]:
    """The image's environment, overridden by name by the pod's, with PATH and HOSTNAME as every runtime sets them."""
    merged = {"PATH": DEFAULT_PATH, **({"HOSTNAME": spec.hostname} if spec.hostname else {})}
    merged.update(defaults.env)
    merged.update(spec.env)
    return tuple(merged.items())
