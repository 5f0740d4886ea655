"""Starting a helper: which interpreter, with what, so that it is found again whatever happens to the daemon."""

import os
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import vzkubelet
from vzkubelet.machines.directory import MachineDirectory, listen
from vzkubelet.machines.process import OWNER, ROLE, Launch, ProcessRef, launch
from vzkubelet.model.mac import APP_EXECUTABLE

HELPER_ROLE = "vz-helper"
_MODULE = "vzkubelet.machines.vz.helper"


@dataclass(frozen=True, slots=True)
class Interpreter:
    """The Python that runs what touches Apple's frameworks, and the environment it gets."""

    executable: str
    environment: Mapping[str, str]
    is_signed_app: bool

    def module(self, name: str, *arguments: str, options: Sequence[str] = ()) -> list[str]:
        """The command line that runs a module of ours; `options` are the interpreter's.

        ``-P``: a file in the directory that it runs in would otherwise stand in for a module of the same name, with
        all that the signed application may do.
        """
        return [self.executable, "-P", *options, "-m", name, *arguments]

    def run(self, name: str, *arguments: str, timeout_s: float) -> "subprocess.CompletedProcess[bytes]":
        """Run a module of ours to its end and keep what it says. Raises OSError, subprocess.TimeoutExpired."""
        return subprocess.run(
            self.module(name, *arguments),
            env=self.environment,
            capture_output=True,
            timeout=timeout_s,
            check=False,
            cwd="/",
        )

    @classmethod
    def find(cls, app: Path, environment: Mapping[str, str]) -> "Interpreter":
        """The one in our signed application; without one this process's own, which on a Mac lacks the entitlement."""
        program = app / APP_EXECUTABLE
        found = os.access(program, os.X_OK) and program.is_file()
        # The application has a copy of the interpreter; our code and PyObjC stay where they are installed.
        packages = [str(Path(vzkubelet.__file__).parents[1]), *map(sysconfig.get_path, ("purelib", "platlib"))]
        path = dict.fromkeys([*environment.get("PYTHONPATH", "").split(os.pathsep), *packages])
        variables = {**environment, "PYTHONPATH": os.pathsep.join(entry for entry in path if entry)}
        return cls(str(program) if found else sys.executable, variables, found)


def launch_helper(interpreter: Interpreter, directory: MachineDirectory, inherited: Sequence[int]) -> ProcessRef:
    """Start the helper of a machine, in a session of its own; it serves ``helper.sock``, which listens already.

    `inherited` are descriptors whose locks are to live as long as the helper. Raises: MachineFault, OSError.
    """
    directory.helper_log.unlink(missing_ok=True)
    with listen(directory.helper_socket) as server:
        # The marks stand in the arguments too: macOS hides the environment of programs with entitlements.
        marks = ["-X", f"{OWNER}={directory.path}", "-X", f"{ROLE}={HELPER_ROLE}"]
        arguments = [str(directory.path), "--listen-fd", str(server.fileno())]
        return launch(
            Launch(
                argv=interpreter.module(_MODULE, *arguments, options=marks),
                owner=directory.path,
                role=HELPER_ROLE,
                cwd=directory.path,
                log=directory.helper_log,
                pass_fds=(server.fileno(), *inherited),
                environment=interpreter.environment,
            )
        )
