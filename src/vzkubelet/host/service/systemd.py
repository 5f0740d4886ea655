"""The unit (systemd.service(5), systemd.exec(5)).

What confines the agent confines QEMU and virtiofsd, its children. Everything that gives the service a mount namespace
of its own (ProtectSystem, ProtectHome, PrivateTmp, …) is left out on purpose: volumes that one agent mounts would be
out of sight for the next. MemoryDenyWriteExecute would stop QEMU's translator, RestrictSUIDSGID what guests write.
"""

from collections.abc import Sequence
from pathlib import Path

from vzkubelet.host.probe import Probe
from vzkubelet.host.service.launchd import EXIT_TIMEOUT_S, OPEN_FILES

_UNIT = """\
[Unit]
Description=Kubernetes node agent whose pods are virtual machines
Documentation=man:systemd.service(5)
Wants=network-online.target
After=network-online.target docker.service containerd.service
RequiresMountsFor={cache}
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart={command}
WorkingDirectory={directory}
Restart=always
RestartSec=5
# The agent alone: machines go on, and the next agent finds them.
KillMode=process
SendSIGKILL=yes
TimeoutStopSec={exit_timeout_s}
# A guest that the kernel kills for its memory does not take the node with it.
OOMPolicy=continue
LimitNOFILE={open_files}
TasksMax=infinity
UMask=0022
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
SystemCallArchitectures=native
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK AF_PACKET AF_VSOCK

[Install]
WantedBy={wanted_by}
"""


def is_init(probe: Probe) -> bool:
    """Whether systemd has started this host (sd_booted(3)); in most containers it has not."""
    return probe.status(Path("/run/systemd/system")) is not None


def definition(command: Sequence[str], directory: Path, cache: Path, *, system: bool) -> str:
    """The unit's text; `system` = root's, not a user's."""
    return _UNIT.format(
        command=" ".join(map(quoted, command)),
        directory=escaped(str(directory)),
        cache=quoted(str(cache), expands=False),
        exit_timeout_s=EXIT_TIMEOUT_S,
        open_files=OPEN_FILES,
        wanted_by="multi-user.target" if system else "default.target",
    )


def quoted(word: str, *, expands: bool = True) -> str:
    """One word of a command line: in quotes where it needs them, specifiers and variables taken literally."""
    text = escaped(word)
    if expands:
        text = text.replace("$", "$$")
    if text and not any(character.isspace() or character in "\"'\\;" for character in text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def escaped(text: str) -> str:
    """Specifiers (``%h``) taken literally."""
    return text.replace("%", "%%")
