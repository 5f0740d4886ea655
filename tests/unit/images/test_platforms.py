"""What each kind of host runs, the preferred platform first."""

import pytest

from vzkubelet.images.platforms import host_platforms


@pytest.mark.parametrize(
    ("system", "machine", "platforms"),
    [
        ("darwin", "arm64", ["darwin/arm64", "linux/arm64"]),
        ("linux", "x86_64", ["linux/amd64"]),
        ("linux", "aarch64", ["linux/arm64"]),
        ("linux", "riscv64", ["linux/riscv64"]),
    ],
)
def test_host_platforms(system: str, machine: str, platforms: list[str]) -> None:
    assert [str(platform) for platform in host_platforms(system, machine)] == platforms
