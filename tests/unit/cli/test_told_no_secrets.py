"""What runs in a process of its own to look at Apple's framework is told nothing of the guests' logins."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from vzkubelet import cli
from vzkubelet.errors import Unsupported
from vzkubelet.machines.vz import installation, self_check
from vzkubelet.machines.vz.launch import Interpreter

SECRETS = ("hunter2", "a2V5", "opensesame")


@pytest.fixture(autouse=True)
def logins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VZ_SSH_USER", "admin")
    for name, secret in zip(("PASSWORD", "PRIVATE_KEY_BASE64", "PRIVATE_KEY_PASSPHRASE"), SECRETS, strict=True):
        monkeypatch.setenv(f"VZ_SSH_{name}", secret)
    monkeypatch.setattr("vzkubelet.telemetry.logs.configure", lambda *_: None)


def check(environment: dict[str, str]) -> None:
    assert environment["VZ_SSH_USER"] == "admin"
    assert not set(SECRETS) & set(environment.values())


def test_the_stages_of_the_self_check_are_told_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Interpreter] = []

    def run(guest: Path | None, interpreter: Interpreter, **_: object) -> object:
        seen.append(interpreter)
        return SimpleNamespace(text="", json="", passed=True)

    monkeypatch.setattr(self_check, "run", run)
    assert cli.invoke(["doctor", "--self-check"]) == 0
    check(dict(seen[0].environment))


def test_the_installer_of_macos_is_told_no_secrets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[Interpreter] = []

    async def run(interpreter: Interpreter, *_: object) -> None:
        seen.append(interpreter)
        raise Unsupported("enough")

    monkeypatch.setattr(installation, "run", run)
    assert cli.invoke(["image", "create", str(tmp_path / "made"), "--ipsw", "latest"]) != 0
    check(dict(seen[0].environment))
