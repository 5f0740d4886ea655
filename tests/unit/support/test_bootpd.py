"""The lease file that tests show to the product is one that its own reader of macOS' file understands."""

from pathlib import Path

from tests.support import bootpd
from vzkubelet.machines.addresses import MacAddress, macos_leases, newest_lease

MAC = "02:00:0a:00:0b:0c"


def event(file: Path, *arguments: str, client_id: str = "") -> None:
    environment = {"DNSMASQ_LEASE_EXPIRES": "2000000000", "DNSMASQ_CLIENT_ID": client_id}
    bootpd.rewrite(file, arguments, environment)


def test_leases_come_change_and_go(tmp_path: Path) -> None:
    file = tmp_path / "dhcpd_leases"
    event(file, "add", MAC, "10.0.0.2", client_id=f"01:{MAC}")
    assert file.read_text() == (
        "{\n\tip_address=10.0.0.2\n\thw_address=1,2:0:a:0:b:c\n\tidentifier=1,2:0:a:0:b:c\n\tlease=0x77359400\n}\n"
    )
    event(file, "add", "02:00:00:00:00:01", "10.0.0.20", "other")
    event(file, "old", MAC, "10.0.0.2")
    assert [lease.ip for lease in macos_leases(file.read_text())] == ["10.0.0.2", "10.0.0.20"]
    event(file, "del", MAC, "10.0.0.2")
    assert [lease.ip for lease in macos_leases(file.read_text())] == ["10.0.0.20"]
    event(file, "tftp", "1", "10.0.0.20")
    assert "name=other" in file.read_text()


def test_product_finds_its_guest(tmp_path: Path) -> None:
    file = tmp_path / "dhcpd_leases"
    event(file, "add", MAC, "10.0.0.2")
    parsed = MacAddress.parse(MAC)
    assert parsed is not None
    lease = newest_lease(macos_leases(file.read_text()), parsed, now=1_999_999_999)
    assert lease is not None
    assert (lease.ip, lease.expires_at) == ("10.0.0.2", 2_000_000_000)


def test_duid_takes_the_place_of_the_mac() -> None:
    text = bootpd.block("10.0.0.2", MAC, 1, client_id="ff:f1:f5:dd:7f:00:02")
    assert "\thw_address=ff,f1:f5:dd:7f:0:2\n" in text
    assert macos_leases(text) == []
