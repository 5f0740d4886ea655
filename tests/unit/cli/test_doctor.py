"""The verb over a Mac that is not there: table, JSON and exit codes."""

import json
from collections.abc import Callable

import pytest

from tests.support.recorded_host import RecordedHost
from tests.unit.host.hosts_support import mac
from vzkubelet import cli
from vzkubelet.daemon import preflight

KEYCHAIN = "security show-keychain-info /Users/ci/Library/Keychains/login.keychain-db"
Doctor = Callable[..., tuple[int, str]]


@pytest.fixture
def host() -> RecordedHost:
    return mac()[0]


@pytest.fixture
def doctor(host: RecordedHost, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Doctor:
    """Runs the verb; its exit code and output."""
    _, subject = mac()

    async def recorded(*_: object, **__: object) -> object:
        return subject

    monkeypatch.setattr("vzkubelet.cli.doctor.local_probe", lambda: host)
    monkeypatch.setattr(preflight, "subject", recorded)

    def run(*arguments: str) -> tuple[int, str]:
        return cli.invoke(["doctor", *arguments]), capsys.readouterr().out

    return run


def test_a_healthy_mac(doctor: Doctor) -> None:
    code, shown = doctor()
    assert code == 0
    assert "✔ keychain " in shown
    assert shown.endswith("\nThis host is ready.\n")


def test_a_problem_is_shown_with_reason_and_fix_and_fails(doctor: Doctor, host: RecordedHost) -> None:
    host.say(KEYCHAIN, status=36)
    code, shown = doctor()
    assert code == 1
    lines = shown.splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith("✘ keychain"))
    assert "guests of macOS 15" in lines[place + 1]
    assert lines[place + 3].strip() == "→ security unlock-keychain /Users/ci/Library/Keychains/login.keychain-db"
    assert lines[-1] == "1 problem, no warnings."


def test_a_warning_does_not_fail(doctor: Doctor, host: RecordedHost) -> None:
    host.say("fdesetup status", "FileVault is On.\n")
    code, shown = doctor()
    assert code == 0
    assert shown.endswith("no problems, 1 warning.\n")


def test_quiet_shows_only_what_is_wrong(doctor: Doctor, host: RecordedHost) -> None:
    host.say("fdesetup status", "FileVault is On.\n")
    _, shown = doctor("--quiet")
    assert [line.split()[:2] for line in shown.splitlines()[:1]] == [["!", "filevault"]]
    assert "✔" not in shown


def test_json_has_everything(doctor: Doctor, host: RecordedHost) -> None:
    host.say(KEYCHAIN, status=36)
    code, shown = doctor("--json")
    report = json.loads(shown)
    assert code == 1
    assert (report["driver"], report["problems"], report["warnings"]) == ("vz", 1, 0)
    assert report["host"] == {"system": "darwin", "machine": "arm64", "user": "ci", "python": "3.12.8"}
    [found] = [finding for finding in report["findings"] if finding["severity"] != "ok"]
    assert found.keys() == {"check", "severity", "what", "why", "fix"}


def test_json_is_as_quiet_as_the_table(doctor: Doctor, host: RecordedHost) -> None:
    host.say(KEYCHAIN, status=36)
    code, shown = doctor("--json", "-q")
    report = json.loads(shown)
    assert code == 1
    assert [finding["severity"] for finding in report["findings"]] == ["problem"]


@pytest.mark.parametrize("flag", [("--guest", "vmlinuz"), ("--online",)])
def test_a_flag_of_the_self_check_is_not_ignored(doctor: Doctor, flag: tuple[str, ...]) -> None:
    assert doctor(*flag) == (2, "")


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colours_are_left_out_where_nobody_wants_them(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setattr("click.utils.should_strip_ansi", lambda _, color: color is False)
    monkeypatch.setattr("click._compat.should_strip_ansi", lambda _, color: color is False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[" in doctor()[1]
    monkeypatch.setenv(name, value)
    assert "\x1b[" not in doctor()[1]


@pytest.mark.parametrize(("columns", "widest"), [("70", 70), ("20", 60), ("500", 120)])
def test_lines_are_as_wide_as_the_terminal(
    doctor: Doctor, host: RecordedHost, monkeypatch: pytest.MonkeyPatch, columns: str, widest: int
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    host.say("fdesetup status", "FileVault is On.\n")
    # Commands and paths are copied, so they stay whole.
    told = [line for line in doctor()[1].splitlines() if not {"→", "#", "/"} & set(line)]
    assert widest - 30 < max(map(len, told)) <= widest
