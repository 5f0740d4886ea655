"""Room for images and machines, and whether a machine's disk can be a clone."""

from collections.abc import Iterator
from pathlib import Path

from vzkubelet.config import DriverChoice
from vzkubelet.host.finding import Finding, ok, problem, warning
from vzkubelet.host.probe import Probe
from vzkubelet.host.subject import Subject

GIB = 1 << 30
_NEEDED_BYTES = {
    DriverChoice.VZ: (20 * GIB, 80 * GIB),
    DriverChoice.QEMU: (1 * GIB, 5 * GIB),
    DriverChoice.SYNTHETIC: (GIB // 10, GIB),
}
"""Below the first nothing useful starts, below the second it soon will not. A macOS image has 30 to 100 GB."""
_MOUNTS = Path("/proc/self/mounts")


def space(probe: Probe, subject: Subject) -> Iterator[Finding]:
    place = subject.config.cache_dir
    room = probe.room(place)
    least, enough = _NEEDED_BYTES[subject.driver]
    text = f"{room.available_bytes / GIB:.1f} GiB of {room.capacity_bytes / GIB:.0f} GiB are free for {place}"
    why = "images do not fit, and a machine whose disk cannot grow stops"
    fixes = ("macos-vz-kubelet image ls   # then: macos-vz-kubelet image rm REFERENCE", f"du -sh {_quoted(place)}/*")
    if room.available_bytes < least:
        yield problem("disk-space", text, why, *fixes)
    elif room.available_bytes < enough:
        yield warning("disk-space", text, why, *fixes)
    else:
        yield ok("disk-space", text)


def cache(_: Probe, subject: Subject) -> Iterator[Finding]:
    place = subject.config.cache_dir
    if subject.cache_obstacle:
        yield problem(
            "cache-directory",
            subject.cache_obstacle,
            "the agent refuses to start",
            "macos-vz-kubelet --cache-dir DIR   # one that this user may write to; give the same to install",
        )
    else:
        yield ok("cache-directory", f"state and images can be kept in {place}")


def clones(probe: Probe, subject: Subject) -> Iterator[Finding]:
    if subject.driver is DriverChoice.SYNTHETIC:
        return
    place = subject.config.cache_dir
    kind = file_system(probe, place)
    if probe.facts.system == "darwin":
        if kind == "apfs":
            yield ok("disk-clones", "machines are clones of their image (APFS)")
        else:
            yield warning(
                "disk-clones",
                f"{place} is on {kind or 'an unknown file system'}, not on APFS",
                "every start of a machine copies its whole disk",
                "diskutil list   # find an APFS volume",
                "macos-vz-kubelet --cache-dir /Volumes/NAME/vzkubelet   # and give the same to install",
            )
    elif kind in ("xfs", "btrfs", "bcachefs"):
        yield ok("disk-clones", f"machines are clones of their image ({kind}), or overlays where it cannot")
    else:
        yield ok("disk-clones", f"machines are overlays on their image ({kind or 'unknown file system'})")


def file_system(probe: Probe, place: Path) -> str:
    """Kind of the file system that a path is, or will be, on; empty when unknown."""
    mounts = _apple_mounts(probe) if probe.facts.system == "darwin" else _linux_mounts(probe)
    if probe.facts.system == "darwin":
        # Only df knows where a firmlink such as /Users really leads.
        lines = probe.run(["df", "-P", str(_existing(probe, place))]).stdout.splitlines()
        if len(lines) < 2:
            return ""
        mounted = lines[-1].partition("%")[2].strip()
        return mounts.get(Path(mounted), "")
    candidates = [place, *place.parents]
    return next((mounts[path] for path in candidates if path in mounts), "")


def _existing(probe: Probe, place: Path) -> Path:
    return next((path for path in (place, *place.parents) if probe.status(path) is not None), Path("/"))


def _apple_mounts(probe: Probe) -> dict[Path, str]:
    """``/dev/disk3s5 on /System/Volumes/Data (apfs, local, journaled, nobrowse)``"""
    found = {}
    for line in probe.run(["mount"]).stdout.splitlines():
        _, on, rest = line.partition(" on ")
        path, parenthesis, options = rest.rpartition(" (")
        if on and parenthesis:
            found[Path(path)] = options.partition(",")[0].rstrip(")")
    return found


def _linux_mounts(probe: Probe) -> dict[Path, str]:
    """fstab(5): fields apart by blanks, blanks in paths as ``\\040``. A later mount hides an earlier one."""
    found = {}
    for line in probe.read(_MOUNTS).decode(errors="replace").splitlines():
        fields = line.split()
        if len(fields) > 2:
            found[Path(fields[1].replace("\\040", " "))] = fields[2]
    return found


def _quoted(path: Path) -> str:
    text = str(path)
    return f"'{text}'" if " " in text else text
