"""The node's figures for ``/stats/summary``. Real readings of the host; what it does not tell is None."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from vzkubelet import aio
from vzkubelet.errors import Unavailable
from vzkubelet.model.stats import (
    CPUStats,
    FsStats,
    InterfaceStats,
    MemoryStats,
    NetworkStats,
    NodeStats,
    RlimitStats,
    RuntimeStats,
    SwapStats,
)
from vzkubelet.model.timestamp import from_epoch
from vzkubelet.node import facts

NANOSECONDS = 1_000_000_000
RATE_WINDOW_S = 1.0
"""A CPU rate is taken over at least this time; within it the rate before is given again."""


@dataclass(frozen=True, slots=True)
class _CpuSample:
    at: float
    busy_ns: int
    rate_ns: int | None


class NodeFigures:
    """Figures of this host; `directory` names the file system that is reported, `address` the default interface.

    The first answer has no CPU rate where a second sample is missing; the counter is always there.
    """

    def __init__(self, name: str, host: facts.Host, directory: Path, address: str) -> None:
        self._name = name
        self._host = host
        self._directory = directory
        self._address = address
        self._sample: _CpuSample | None = None

    async def read(self) -> NodeStats:
        """Raises Unavailable: the directory is not there."""
        try:
            return await aio.run_blocking(self._read)
        except OSError as exc:
            raise Unavailable(f"figures of node {self._name}: {exc.strerror}") from exc

    def _read(self) -> NodeStats:
        now = time.time()
        moment = from_epoch(now)
        disk = facts.disk(self._directory)
        fs = FsStats(
            time=moment,
            available_bytes=disk.available_bytes,
            capacity_bytes=disk.capacity_bytes,
            used_bytes=disk.used_bytes,
            inodes=disk.inodes or None,
            inodes_free=disk.inodes_free if disk.inodes else None,
            inodes_used=disk.inodes - disk.inodes_free if disk.inodes else None,
        )
        memory, swap = psutil.virtual_memory(), psutil.swap_memory()
        self._sample = sampled(self._sample, busy_ns(psutil.cpu_times()._asdict()), time.monotonic())
        return NodeStats(
            node_name=self._name,
            start_time=from_epoch(self._host.booted_at),
            cpu=CPUStats(
                time=moment,
                usage_nano_cores=self._sample.rate_ns,
                usage_core_nano_seconds=self._sample.busy_ns,
            ),
            memory=MemoryStats(
                time=moment,
                available_bytes=memory.available,
                usage_bytes=memory.total - memory.free,
                # What cannot be reclaimed: the kubelet's usage without inactive file cache comes to the same.
                working_set_bytes=memory.total - memory.available,
                rss_bytes=memory.used,
            ),
            network=self._network(now),
            fs=fs,
            runtime=RuntimeStats(image_fs=fs, container_fs=fs),
            rlimit=RlimitStats(time=moment, max_pid=_max_pid(), running_processes=len(psutil.pids())),
            swap=SwapStats(time=moment, swap_available_bytes=swap.free, swap_usage_bytes=swap.used),
        )

    def _network(self, now: float) -> NetworkStats | None:
        counters = psutil.net_io_counters(pernic=True)
        interfaces = [
            InterfaceStats(
                name=name, rx_bytes=io.bytes_recv, rx_errors=io.errin, tx_bytes=io.bytes_sent, tx_errors=io.errout
            )
            for name, io in sorted(counters.items())
        ]
        owners = {name: {a.address for a in found} for name, found in psutil.net_if_addrs().items()}
        default = next((i for i in interfaces if self._address in owners.get(i.name, ())), None)
        if default is None:
            return None
        return NetworkStats(
            time=from_epoch(now),
            name=default.name,
            rx_bytes=default.rx_bytes,
            rx_errors=default.rx_errors,
            tx_bytes=default.tx_bytes,
            tx_errors=default.tx_errors,
            interfaces=interfaces,
        )


def busy_ns(times: Mapping[str, float]) -> int:
    """Nanoseconds that all CPUs spent on something. Guest time is part of user time already (proc(5))."""
    idle = ("idle", "iowait", "guest", "guest_nice")
    return int(sum(seconds for kind, seconds in times.items() if kind not in idle) * NANOSECONDS)


def sampled(before: _CpuSample | None, busy: int, at: float) -> _CpuSample:
    """The next sample: with a rate once there are two far enough apart."""
    if before is None:
        return _CpuSample(at, busy, None)
    passed_s = at - before.at
    if passed_s < RATE_WINDOW_S:
        return before
    return _CpuSample(at, busy, max(0, int((busy - before.busy_ns) / passed_s)))


def _max_pid() -> int | None:
    try:
        return int(Path("/proc/sys/kernel/pid_max").read_text())
    except (OSError, ValueError):
        return None
