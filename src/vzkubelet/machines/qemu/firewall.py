"""Packet filter rules of one bridge: forwarding past other people's DROP policies, and masquerading.

Docker sets the policy of FORWARD to DROP, and with br_netfilter that hits even frames between two ports of one bridge.
Only rules with this bridge's comment are ever added or removed.
"""

import logging
from pathlib import Path

from vzkubelet.errors import clip
from vzkubelet.machines.process import run

_log = logging.getLogger(__name__)
_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")


def rules(bridge: str, subnet: str) -> list[tuple[str, str, list[str]]]:
    """Table, chain and match of every rule of the bridge. Pure."""
    mark = ["-m", "comment", "--comment", f"vzkubelet {bridge}"]
    return [
        ("filter", "FORWARD", ["-i", bridge, *mark, "-j", "ACCEPT"]),
        ("filter", "FORWARD", ["-o", bridge, *mark, "-j", "ACCEPT"]),
        ("nat", "POSTROUTING", ["-s", subnet, "!", "-d", subnet, *mark, "-j", "MASQUERADE"]),
    ]


async def open_bridge(iptables: str | None, bridge: str, subnet: str) -> None:
    """Let the bridge's guests out, as far as this host permits; what does not work is a warning, not a failure."""
    try:
        if _FORWARDING.read_text().strip() != "1":
            _FORWARDING.write_text("1")
    except OSError as exc:
        _log.warning("guests on %s stay on this host: IP forwarding cannot be switched on: %s", bridge, exc.strerror)
    if iptables is None:
        _log.warning("guests on %s may not reach other networks: iptables is missing", bridge)
        return
    for table, chain, match in rules(bridge, subnet):
        present, _ = await run(iptables, "-w", "5", "-t", table, "-C", chain, *match)
        if present == 0:
            continue
        failed, error = await run(iptables, "-w", "5", "-t", table, "-I", chain, *match)
        if failed:
            _log.warning("guests on %s may not reach other networks: iptables -t %s: %s", bridge, table, clip(error))


async def close_bridge(iptables: str | None, bridge: str, subnet: str) -> None:
    """Remove every rule that `open_bridge` made for this bridge, however often it was made."""
    if iptables is None:
        return
    for table, chain, match in rules(bridge, subnet):
        while (await run(iptables, "-w", "5", "-t", table, "-D", chain, *match))[0] == 0:
            continue
