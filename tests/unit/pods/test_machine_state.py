"""Command, environment and state of a machine container."""

from pathlib import Path

import pytest

from vzkubelet.model.identity import PodRef
from vzkubelet.pods.machine_state import MachineContainer, Phase, combined_argv, combined_env, container_id
from vzkubelet.ports import ContainerPhase, ContainerSpec, Image, ImageDefaults

POD = PodRef("ns", "p", "u-1")
BOTH = ImageDefaults(entrypoint=("/ep",), cmd=("default",))


def spec(**changes: object) -> ContainerSpec:
    return ContainerSpec(POD, "vm", 0, Image("i", "i@sha256:0", 1), log_path=Path("log"), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("command", "args", "defaults", "expected"),
    [
        # The table of "Define a Command and Arguments for a Container" in the Kubernetes documentation.
        (None, None, BOTH, ("/ep", "default")),
        (("/own",), None, BOTH, ("/own",)),
        (None, ("arg",), BOTH, ("/ep", "arg")),
        (("/own",), ("arg",), BOTH, ("/own", "arg")),
        (None, None, ImageDefaults(), ()),
        (None, None, ImageDefaults(cmd=("only", "cmd")), ("only", "cmd")),
        (None, ("arg",), ImageDefaults(cmd=("dropped",)), ("arg",)),
        (None, None, ImageDefaults(entrypoint=("/ep",)), ("/ep",)),
        (("/own",), None, ImageDefaults(), ("/own",)),
    ],
)
def test_command_and_args_combine_with_the_images(
    command: tuple[str, ...] | None, args: tuple[str, ...] | None, defaults: ImageDefaults, expected: tuple[str, ...]
) -> None:
    assert combined_argv(spec(command=command, args=args), defaults) == expected


def test_the_pods_environment_wins_over_the_images_and_both_over_the_runtimes() -> None:
    defaults = ImageDefaults(env=(("PATH", "/bin"), ("A", "image"), ("C", "3")))
    merged = combined_env(spec(env=(("A", "pod"), ("B", "2")), hostname="h"), defaults)
    assert dict(merged) == {"HOSTNAME": "h", "PATH": "/bin", "A": "pod", "B": "2", "C": "3"}
    assert len(merged) == 5


def test_host_name_may_be_overridden_and_may_be_absent() -> None:
    own = dict(combined_env(spec(env=(("HOSTNAME", "own"),), hostname="h"), ImageDefaults()))
    assert own["HOSTNAME"] == "own"
    assert "/usr/bin" in own["PATH"].split(":")
    assert "HOSTNAME" not in dict(combined_env(spec(), ImageDefaults()))


def test_container_ids_tell_attempts_apart_and_nothing_else() -> None:
    first = container_id("qemu", "u-1", "vm", 0)
    assert first == container_id("qemu", "u-1", "vm", 0)
    assert first.startswith("qemu://")
    assert len(first) == len("qemu://") + 64
    others = {
        container_id("qemu", "u-1", "vm", 1),
        container_id("qemu", "u-2", "vm", 0),
        container_id("qemu", "u-1", "b", 0),
    }
    assert len(others | {first}) == 4


def test_end_is_never_before_the_start() -> None:
    state = MachineContainer("vm", 0, "id", "image", phase=Phase.RUNNING, started_at=100.0)
    seen = state.exited(3, 0, "Error", "why", now=90.0).observed()
    assert (seen.phase, seen.exit.code, seen.finished_at, seen.message) == (ContainerPhase.EXITED, 3, 100.0, "why")
