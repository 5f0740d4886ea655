"""A DHCP server's leases as macOS' bootpd keeps them, for dnsmasq's ``--dhcp-script`` (dnsmasq(8)).

It runs with nothing but the standard library and once per event, so the file is what the last event made of it.
The file is rewritten in place, as bootpd does: a reader may see half of it.
"""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_BLOCK = re.compile(r"\{[^{}]*\}\n?")


def stripped(octets: str) -> str:
    """Each octet without its leading zero, as macOS prints them: ``da:0a`` is ``da:a``."""
    return ":".join(f"{int(octet, 16):x}" for octet in octets.split(":"))


def block(ip: str, mac: str, expires_at: int, *, name: str = "", client_id: str = "") -> str:
    """One lease. A client identifier that is no MAC (systemd sends a DUID) takes the MAC's place, as on a Mac."""
    kind, _, rest = client_id.partition(":")
    hardware = f"{int(kind, 16):x},{stripped(rest)}" if rest and kind != "01" else f"1,{stripped(mac)}"
    lines = [
        *([f"name={name}"] if name else []),
        f"ip_address={ip}",
        f"hw_address={hardware}",
        f"identifier={hardware}",
        f"lease=0x{expires_at:x}",
    ]
    return "{\n" + "".join(f"\t{line}\n" for line in lines) + "}\n"


def updated(text: str, verb: str, ip: str, new: str) -> str:
    """The file after one event: ``add`` and ``old`` put the lease of `ip` first, ``del`` removes it."""
    others = [found for found in _BLOCK.findall(text) if f"\tip_address={ip}\n" not in found]
    return "".join([*([] if verb == "del" else [new]), *others])


def rewrite(file: Path, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """Take in one event: ``add|old|del MAC IP [NAME]``; any other one says nothing of a lease."""
    verb, mac, ip, *name = [*arguments, "", "", ""][:4]
    if verb not in ("add", "old", "del"):
        return
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    with os.fdopen(descriptor, "r+") as leases:
        text = leases.read()
        expiry = int(environment.get("DNSMASQ_LEASE_EXPIRES", "0"))
        client_id = environment.get("DNSMASQ_CLIENT_ID", "")
        leases.seek(0)
        leases.write(updated(text, verb, ip, block(ip, mac, expiry, name=name[0], client_id=client_id)))
        leases.truncate()


if __name__ == "__main__":
    rewrite(Path(sys.argv[1]), sys.argv[2:], os.environ)
