"""`python -m tests.cluster up|down|status|node-credential`: the test cluster as daemons of a state directory."""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.cluster import daemons
from tests.cluster.api import ApiError
from tests.cluster.binary import BuildFailed
from tests.cluster.node_credential import CredentialFailed
from tests.cluster.processes import ComponentFailed
from tests.cluster.run_state import RunState


def main() -> int:
    arguments = _parser().parse_args()
    state = RunState(arguments.state)
    try:
        with state.locked():
            match arguments.verb:
                case "up":
                    _up(state)
                case "down":
                    _down(state)
                case "status":
                    return _status(state)
                case "node-credential":
                    _node_credential(state, arguments.name, arguments.address or ["127.0.0.1"])
    except (ComponentFailed, BuildFailed, CredentialFailed, ApiError, OSError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("--state", type=Path, default=Path(".run"), help="state directory (default: .run)")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("up", help="start the control plane, unless it runs")
    verbs.add_parser("down", help="stop exactly what was started")
    verbs.add_parser("status", help="list the processes; exit 1 when one is dead")
    credential = verbs.add_parser("node-credential", help="join a node: kubeconfig, client and serving certificate")
    credential.add_argument("name")
    credential.add_argument("--address", action="append", help="IP address of the node (default: 127.0.0.1)")
    return parser


def _up(state: RunState) -> None:
    started = time.monotonic()
    before = {record.pid for record in state.processes if record.is_alive()}
    cluster = daemons.ensure_control_plane(state)
    after = {record.pid for record in state.processes if record.is_alive()}
    if after <= before:
        print(f"The control plane runs already at {cluster.server}.")
    else:
        print(f"Control plane at {cluster.server}, up in {time.monotonic() - started:.1f} s.")
    environment = _shown(state.environment_file)
    print(f"""
  use it        . {environment}; $KUBECTL get all -A
  audit log     {_shown(cluster.audit_log)}
  join a node   {_command(state)} node-credential NAME
  stop it       {_command(state)} down""")


def _down(state: RunState) -> None:
    stopped = daemons.down(state)
    print(f"Stopped {', '.join(record.name for record in stopped)}." if stopped else "Nothing was running.")


def _status(state: RunState) -> int:
    for record in state.processes:
        print(f"{record.name:24} {record.pid:8} {'running' if record.is_alive() else 'dead':8} {record.log}")
    return 0 if state.processes and all(record.is_alive() for record in state.processes) else 1


def _node_credential(state: RunState, name: str, addresses: list[str]) -> None:
    credential = daemons.ensure_node_credential(state, name, addresses)
    print(f"Credential of system:node:{name} in {_shown(credential.directory)}. Start the agent with:\n")
    for variable, value in credential.environment().items():
        print(f"  {variable}={_shown(value)}")


def _shown(path: Path | str) -> str:
    """As short as a user in the current directory would type it."""
    shortened = os.path.relpath(path)
    return str(path) if shortened.startswith("..") else shortened


def _command(state: RunState) -> str:
    default = state.directory == Path(".run").absolute()
    return "python -m tests.cluster" + ("" if default else f" --state {_shown(state.directory)}")


if __name__ == "__main__":
    sys.exit(main())
