"""The host's dhcpd_leases, as bootpd writes it: zero-stripped octets, expiry in hexadecimal, newest last."""

import ipaddress
import os
import re
import time

from .host import Host

_ADDRESS = re.compile(r"^\s*ip_address=(\S+)$", re.MULTILINE)
_BLOCK = re.compile(r"\{.*?\n\}\n", re.DOTALL)


def write_lease(host: Host, mac: str, address: str, name: str = "guest") -> None:
    """Add or renew the lease of `mac` (``aa:bb:…``) for `address`; other leases of the same MAC stay, as on a Mac."""
    with host.locked("leases"):
        blocks = [block for block in _blocks(host) if not (_is_of(block, mac) and f"ip_address={address}\n" in block)]
        _write(host, [*blocks, _block(host, mac, address, name)])


def take_lease(host: Host, mac: str, name: str = "guest") -> str | None:
    """The address of `mac`: the one it has, else the first free of the lease network, None when all are taken."""
    with host.locked("leases"):
        blocks = _blocks(host)
        mine = [block for block in blocks if _is_of(block, mac)]
        address = _addresses(mine)[-1] if mine else _free_address(host, _addresses(blocks))
        if address is None:
            return None
        _write(host, [block for block in blocks if block not in mine[-1:]] + [_block(host, mac, address, name)])
        return address


def stripped(mac: str) -> str:
    """``0a:0b:…`` -> ``a:b:…``."""
    return ":".join(f"{int(octet, 16):x}" for octet in mac.split(":"))


def _free_address(host: Host, taken: list[str]) -> str | None:
    _gateway, *addresses = ipaddress.ip_network(host.settings().lease_network).hosts()
    return next((str(address) for address in addresses if str(address) not in taken), None)


def _block(host: Host, mac: str, address: str, name: str) -> str:
    expiry = int(time.time()) + host.settings().lease_duration_s
    hardware = f"1,{stripped(mac)}"
    return (
        f"{{\n\tname={name}\n\tip_address={address}\n\thw_address={hardware}\n"
        f"\tidentifier={hardware}\n\tlease={expiry:#x}\n}}\n"
    )


def _blocks(host: Host) -> list[str]:
    path = host.directory / "dhcpd_leases"
    return _BLOCK.findall(path.read_text()) if path.exists() else []


def _addresses(blocks: list[str]) -> list[str]:
    return [address for block in blocks for address in _ADDRESS.findall(block)]


def _is_of(block: str, mac: str) -> bool:
    return f"hw_address=1,{stripped(mac)}\n" in block


def _write(host: Host, blocks: list[str]) -> None:
    staged = host.directory / f"dhcpd_leases.{os.getpid()}"
    staged.write_text("".join(blocks))
    staged.replace(host.directory / "dhcpd_leases")
