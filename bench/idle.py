"""What the agent takes of its host and asks of the API server while nothing happens."""

import time
from collections import Counter
from collections.abc import Iterable
from datetime import datetime

import psutil

from bench.figures import Idle
from bench.world import NODE, World
from tests.cluster.audit import AuditEvent

MIB = 1024 * 1024


def measure(world: World, window_s: float) -> Idle:
    """Over the next `window_s` seconds."""
    process = psutil.Process(world.agent_pid)
    began_at, began, cpu_s = time.time(), time.monotonic(), _cpu_s(process)
    time.sleep(window_s)
    took_s, spent_s, ended_at = time.monotonic() - began, _cpu_s(process) - cpu_s, time.time()
    requests = count(world.cluster.audit_events, f"system:node:{NODE}", began_at, ended_at)
    return Idle(
        window_s=round(took_s, 1),
        rss_mib=round(process.memory_info().rss / MIB, 1),
        cpu_percent=round(100 * spent_s / took_s, 2),
        requests_per_minute=round(60 * sum(requests.values()) / took_s, 1),
        requests=requests,
    )


def count(events: Iterable[AuditEvent], user: str, began_at: float, ended_at: float) -> dict[str, int]:
    """Requests of `user` that the API server received in the span, by `verb resource`, most frequent first.

    A request counts once, whatever number of stages the log has of it; a watch counts when it is opened.
    """
    seen = {
        event.audit_id: f"{event.verb} {_target(event)}"
        for event in events
        if event.user.username == user and began_at <= datetime.fromisoformat(event.received).timestamp() < ended_at
    }
    return dict(Counter(seen.values()).most_common())


def _target(event: AuditEvent) -> str:
    target = event.object
    return "/".join(filter(None, (target.resource, target.subresource))) or event.uri


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
