"""`doctor --self-check`: does this Mac have what the product was written against, without a Mac?

`run` starts one process per stage, so that a crash of one stage (which is a finding) costs none of the others:
``python -P -m vzkubelet.machines.vz.self_check STAGE [ARGUMENT]`` prints its checks as JSON.
"""

import asyncio
import importlib.metadata
import os
import platform
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

import vzkubelet
from vzkubelet import config
from vzkubelet.config.vz_options import MAC_SUPPORT
from vzkubelet.errors import Error, Unsupported, clip
from vzkubelet.machines.vz import apple, self_check_api, self_check_host, self_check_machine
from vzkubelet.machines.vz.launch import Interpreter
from vzkubelet.machines.vz.self_check_report import Check, HostFacts, Report, State
from vzkubelet.model.mac import OLDEST_PYOBJC

_MODULE = "vzkubelet.machines.vz.self_check"
_FACTS_STAGE = "facts"
_MACOS_STAGE = "macos"
_STAGES = (
    self_check_api.API_STAGE,
    self_check_api.CREATION_STAGE,
    self_check_machine.QUEUE_STAGE,
    self_check_machine.CONFIGURATION_STAGE,
)
_STAGE_S = 120.0
_PACKAGES = ("pyobjc-core", "pyobjc-framework-Cocoa", "pyobjc-framework-Virtualization", "pyobjc-framework-libdispatch")


def run(guest: Path | None = None, interpreter: Interpreter | None = None, *, is_online: bool = False) -> Report:
    """Check this Mac. Takes some seconds, and up to two minutes when something hangs.

    `guest` is a Linux kernel (an uncompressed Image; ``initrd`` and ``cmdline`` beside it are used), or a directory
    with ``kernel``; it is booted and stopped again. `interpreter` runs the stages; None = the one of the signed
    application at its default place, or this one. With `is_online` Apple's catalogue tells what a macOS guest needs,
    which is then validated. The report has `passed`, `text` (for people, with the JSON at its end), `summary` and
    `json`. A kernel that is missing is a failed check.

    Raises: Unsupported (no frameworks here).
    """
    environment = config.helper_environment()
    chosen = interpreter or Interpreter.find(Path(MAC_SUPPORT).expanduser() / "macos-vz-kubelet.app", environment)
    facts, host_checks = _host_facts(chosen)
    checks = [*host_checks, *_stage(chosen, self_check_host.HOST_STAGE, chosen.executable)]
    for stage in _STAGES:
        checks += _stage(chosen, stage)
    if is_online:
        checks += _stage(chosen, _MACOS_STAGE)
    else:
        checks.append(self_check_machine.skip_macos())
    if guest is not None:
        checks += _stage(chosen, self_check_machine.GUEST_STAGE, str(guest))
    document = self_check_api.api()
    return Report.of(vzkubelet.__version__, self_check_api.metadata_name(document), facts, checks)


class _Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the process of a stage prints."""

    checks: tuple[Check, ...] = ()
    host: HostFacts | None = None
    unsupported: str = ""
    """Why there is nothing to check here at all."""


def _host_facts(interpreter: Interpreter) -> tuple[HostFacts, list[Check]]:
    """Raises: Unsupported."""
    answer = _ask(interpreter, _FACTS_STAGE)
    if isinstance(answer, Check):
        return HostFacts(signed_app=interpreter.is_signed_app), [answer]
    if answer.host is None:
        raise Unsupported(answer.unsupported or "the frameworks do not answer", reason="UnsupportedHost")
    return msgspec.structs.replace(answer.host, signed_app=interpreter.is_signed_app), package_checks(
        answer.host.packages
    )


def package_checks(versions: Mapping[str, str]) -> list[Check]:
    """PyObjC is released as a whole, and tested as a whole. Pure."""
    if not versions:
        return []
    shown = ", ".join(sorted(set(versions.values())))
    old = [version for version in versions.values() if _numbers(version) < OLDEST_PYOBJC]
    if old:
        return [Check("host", "PyObjC", State.FAILED, f"{'.'.join(map(str, OLDEST_PYOBJC))} or later", shown)]
    if len(set(versions.values())) > 1:
        return [Check("host", "PyObjC", State.DIFFERENT, "one version of all its packages", shown)]
    return [Check("host", "PyObjC", State.OK)]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def _stage(interpreter: Interpreter, stage: str, *arguments: str) -> Sequence[Check]:
    answer = _ask(interpreter, stage, *arguments)
    if isinstance(answer, Check):
        return [answer]
    if answer.unsupported:
        return [Check(stage, "the whole stage", State.FAILED, "", answer.unsupported)]
    return answer.checks


def _ask(interpreter: Interpreter, stage: str, *arguments: str) -> _Answer | Check:
    """The answer of a stage, or the check that says how its process ended."""
    try:
        done = interpreter.run(_MODULE, stage, *arguments, timeout_s=_STAGE_S)
    except subprocess.TimeoutExpired:
        return Check(stage, "the whole stage", State.FAILED, "an end", f"none within {_STAGE_S:.0f} s")
    except OSError as exc:
        return Check(stage, "the whole stage", State.FAILED, "a process", f"{interpreter.executable}: {exc}")
    try:
        return msgspec.json.decode(done.stdout, type=_Answer)
    except msgspec.DecodeError:
        how = _ending(done.returncode)
        return Check(stage, "the whole stage", State.FAILED, "an answer", f"{how} {_last_words(done.stderr)}".strip())


def _ending(code: int) -> str:
    """A negative return code is a signal: PyObjC and the frameworks abort rather than raise."""
    if code >= 0:
        return f"exit status {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def _last_words(stderr: bytes) -> str:
    lines = [line for line in stderr.decode(errors="replace").splitlines() if line.strip()]
    return clip(lines[-1]) if lines else ""


# --- In the process of a stage ---------------------------------------------------------------------------------------


def main(arguments: Sequence[str]) -> None:
    stage, *rest = arguments
    try:
        answer = _Answer(host=_measured()) if stage == _FACTS_STAGE else _Answer(checks=tuple(_checks(stage, rest)))
    except Unsupported as exc:
        answer = _Answer(unsupported=exc.message)
    except Error as exc:
        answer = _Answer(checks=(Check(stage, "the whole stage", State.FAILED, "", exc.message),))
    sys.stdout.buffer.write(msgspec.json.encode(answer))
    sys.stdout.flush()
    os._exit(0)  # callbacks may be pending, which an interpreter that shuts down does not survive


def _checks(stage: str, arguments: Sequence[str]) -> Sequence[Check]:
    """Raises Error."""
    if stage == self_check_host.HOST_STAGE:  # it starts processes, which is over once the frameworks are loaded
        return asyncio.run(self_check_host.try_host(arguments[0]))
    host = apple.host()
    match stage:
        case self_check_api.API_STAGE:
            return list(self_check_api.compare_api(self_check_api.api(), host))
        case self_check_api.CREATION_STAGE:
            return list(self_check_api.compare_creation(self_check_api.api(), host))
        case self_check_machine.QUEUE_STAGE:
            return asyncio.run(self_check_machine.try_queue())
        case self_check_machine.CONFIGURATION_STAGE:
            return list(self_check_machine.try_configurations(self_check_machine.host()))
        case _ if stage == _MACOS_STAGE:
            return [asyncio.run(self_check_machine.try_macos(self_check_machine.host()))]
        case self_check_machine.GUEST_STAGE:
            return asyncio.run(self_check_machine.try_guest(Path(arguments[0])))
        case _:
            raise Unsupported(f"there is no stage {stage}")


def _measured() -> HostFacts:
    """Raises Unsupported."""
    model = _sysctl("hw.model")  # first: once the frameworks are loaded, no process may be forked
    host = apple.host()
    build = platform.version().rpartition(":")[2].split("/")[0].strip() if sys.platform == "darwin" else ""
    return HostFacts(
        macos=f"{host.major}.{host.minor}",
        build=build,
        architecture=host.architecture,
        model=model,
        python=platform.python_version(),
        packages={name: version for name in _PACKAGES if (version := _installed(name))},
    )


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _sysctl(name: str) -> str:
    try:
        done = subprocess.run(["sysctl", "-n", name], capture_output=True, timeout=5.0, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else ""


if __name__ == "__main__":
    main(sys.argv[1:])
