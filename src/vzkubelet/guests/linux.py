"""What is particular to Linux guests: mounts of shares, the host name, figures and power-off."""

from collections.abc import Sequence

from vzkubelet.errors import Unavailable, clip
from vzkubelet.guests.shell import load, quote, words
from vzkubelet.ports import GuestMount, GuestUsage

_TICK_NS = 10_000_000
"""USER_HZ is 100 on every architecture we run (proc_stat(5))."""

USAGE = 'read -r line </proc/stat;echo "$line";cat /proc/meminfo;df -kP /\n'


def become_root(is_root: bool, password: str) -> str:
    """The variable that the scripts expect. The password stays here: none of them answers a sudo that asks."""
    return "root=\n" if is_root else "root='sudo -n'\n"


def prepare(hostname: str, mounts: Sequence[GuestMount]) -> str:
    """A script that brings the guest into this state; prints ``error TEXT`` for what failed. Repeating it is free."""
    lines = [load("linux.sh")]
    if hostname:
        lines.append(f"name {quote(hostname)}")
    lines.extend(f"share {quote(tag)}" for tag in dict.fromkeys(mount.tag for mount in mounts))
    for mount in mounts:
        mode = "ro" if mount.read_only else "rw"
        lines.append(f"place {words([mount.tag, mount.sub_path.strip('/'), mount.mount_path, mode])}")
    return "\n".join(lines) + "\n"


def shut_down() -> str:
    """A script that powers the guest off a moment after it has ended itself."""
    return "{ sleep 0.1;$root poweroff||$root shutdown -h now||$root poweroff -f;} </dev/null >/dev/null 2>&1 &\n"


def usage(text: str, sampled_at: float) -> GuestUsage:
    """Parse the output of `USAGE`. Raises Unavailable when a figure is missing.

    CPU counts what was worked (user, nice, system, irq, softirq, steal), not idle and iowait.
    """
    try:
        lines = text.splitlines()
        ticks = [int(value) for value in lines[0].split()[1:9]]
        memory = {
            name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines) if rest
        }
        disk = lines[-1].split()
        return GuestUsage(
            cpu_ns=(sum(ticks) - ticks[3] - ticks[4]) * _TICK_NS,
            memory_total_bytes=memory["MemTotal"],
            memory_available_bytes=memory["MemAvailable"],
            disk_total_bytes=int(disk[1]) * 1024,
            disk_used_bytes=int(disk[2]) * 1024,
            sampled_at=sampled_at,
        )
    except (LookupError, ValueError) as exc:
        raise Unavailable(f"the guest's figures cannot be read: {clip(text)}") from exc
