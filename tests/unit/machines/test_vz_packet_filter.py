"""The command line of a packet filter."""

import pytest

from vzkubelet.errors import InvalidInput
from vzkubelet.machines.vz.packet_filter import command_line

MAC = "02:00:00:00:00:01"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["softnet"], ["softnet", "--vm-fd", "0", "--vm-mac-address", MAC]),
        (["/bin/softnet", "-x"], ["/bin/softnet", "-x", "--vm-fd", "0", "--vm-mac-address", MAC]),
        (["softnet", "--vm-fd={fd}", "--vm-mac-address={mac}"], ["softnet", "--vm-fd=0", f"--vm-mac-address={MAC}"]),
        (["sudo", "-n", "softnet", "--vm-fd", "{fd}"], ["sudo", "-n", "softnet", "--vm-fd", "0"]),
        (["sudo", "-n", "softnet"], ["sudo", "-n", "softnet", "--vm-fd", "0", "--vm-mac-address", MAC]),
        (
            ["/usr/bin/sudo", "-nu", "root", "A=b", "--", "/opt/bin/softnet", "--allow=10.0.0.0/8"],
            [
                "/usr/bin/sudo", "-nu", "root", "A=b", "--", "/opt/bin/softnet", "--allow=10.0.0.0/8",
                "--vm-fd", "0", "--vm-mac-address", MAC,
            ],
        ),
        (["sudo", "-u", "softnet", "filter"], ["sudo", "-u", "softnet", "filter"]),
        (["filter", "--mac", "{mac}", "{other}"], ["filter", "--mac", MAC, "{other}"]),
    ],
)  # fmt: skip
def test_descriptor_and_mac_are_filled_in_and_softnet_gets_what_it_needs(command: list[str], words: list[str]) -> None:
    assert command_line(command, MAC) == words


@pytest.mark.parametrize("command", [[], [""], ["sudo", "-n"]])
def test_a_filter_without_a_program_is_refused(command: list[str]) -> None:
    with pytest.raises(InvalidInput, match="packet filter's command"):
        command_line(command, MAC)
