"""Where the time of a pod's start went, read from the agent's debug log. Pure."""

import re
from dataclasses import dataclass
from datetime import datetime

_LINE = re.compile(r"(?P<time>\S+Z) DEBUG +pods\.\w+: (?P<message>.*)")
_LOGIN = re.compile(
    r"DEBUG +guests\.guest: ssh connect done .*'guest': '(?P<user>[^'@]+)@(?P<host>[^':]+):(?P<port>\d+)'"
)


@dataclass(frozen=True, slots=True)
class Mark:
    """The line that ends a step; `{pod}` in the text stands for namespace/name."""

    step: str
    beginning: str
    ending: str = ""


_TRACED = " {{'pod': '{pod}'}}"
MARKS = (
    Mark("seen by the agent, admitted, on disk", "pod {pod} > PrepareVolumes("),
    Mark("volumes", "pod {pod} < VolumesPrepared("),
    Mark("image looked up", "pod {pod} < ImageReady("),
    Mark("machine created (disk cloned)", "machine create done in ", _TRACED),
    Mark("machine started (QEMU runs)", "machine start done in ", _TRACED),
    Mark("address (firmware, kernel, DHCP)", "machine address done in ", _TRACED),
    Mark("SSH login", "guest connect done in ", _TRACED),
    Mark("host name and mounts", "guest prepare done in ", _TRACED),
    Mark("process started", "process start done in ", _TRACED),
    Mark("recorded as running", "pod {pod} < ContainerStarted("),
)
LAST_STEP = "Ready written and seen"


class LogIncomplete(ValueError):
    """The log lacks a line that ends a step, so the steps cannot be told apart."""


def steps(log: str, pod: str, bound_at: float, ready_at: float) -> dict[str, float]:
    """Seconds of each step, in order; they add up to `ready_at - bound_at` (seconds since the epoch).

    The first line after the mark before counts. Raises: LogIncomplete.
    """
    lines = _messages(log)
    spent: dict[str, float] = {}
    last, position = bound_at, 0
    for mark in MARKS:
        beginning, ending = mark.beginning.format(pod=pod), mark.ending.format(pod=pod)
        for index in range(position, len(lines)):
            at, message = lines[index]
            if message.startswith(beginning) and message.endswith(ending):
                break
        else:
            raise LogIncomplete(f"pod {pod}: no line {beginning!r} in the agent's log (is its level debug?)")
        spent[mark.step] = at - last
        last, position = at, index + 1
    spent[LAST_STEP] = ready_at - last
    return spent


def login(log: str) -> tuple[str, str, int]:
    """User, host and port of the agent's last SSH login into a guest. Raises: LogIncomplete."""
    found = list(_LOGIN.finditer(log))
    if not found:
        raise LogIncomplete("no SSH login in the agent's log (is its level debug?)")
    return found[-1]["user"], found[-1]["host"], int(found[-1]["port"])


def _messages(log: str) -> list[tuple[float, str]]:
    matches = (_LINE.fullmatch(line) for line in log.splitlines())
    return [(datetime.fromisoformat(found["time"]).timestamp(), found["message"]) for found in matches if found]
