import sys
from types import ModuleType
from typing import NoReturn

import click
import pytest

from vzkubelet import cli, config, errors
from vzkubelet.cli import flags, verbs
from vzkubelet.cli.exec import exec_


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> list[config.Config]:
    """Stands in for the daemon; holds the configurations it was started with."""
    started: list[config.Config] = []
    module = ModuleType("vzkubelet.daemon")
    module.run = started.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vzkubelet.daemon", module)
    monkeypatch.setenv("APISERVER_CERT_LOCATION", "/dev/null")
    monkeypatch.setenv("APISERVER_KEY_LOCATION", "/dev/null")
    monkeypatch.setenv("KUBECONFIG", "/dev/null")
    monkeypatch.setenv("VZ_SSH_USER", "u")
    monkeypatch.setenv("VZ_SSH_PASSWORD", "p")
    monkeypatch.setattr("vzkubelet.telemetry.logs.configure", lambda *_: None)
    return started


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """A verb ``probe`` with flags of its own; holds the settings each call saw."""
    calls: list[dict[str, str]] = []

    @click.command()
    @flags.some("cache-dir", "disable-taint")
    @click.option("--code", type=int)
    @click.pass_context
    def probe(ctx: click.Context, /, code: int | None, **_: str | None) -> int | None:
        calls.append(flags.values(ctx))
        return code

    module = ModuleType("probe")
    module.probe = probe  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "probe", module)
    monkeypatch.setitem(verbs.VERBS, "probe", verbs.Verb("probe", "probe", "Probe."))
    return calls


def raising(error: BaseException) -> verbs.Verb:
    @click.command()
    def fail() -> NoReturn:
        raise error

    module = ModuleType("failing")
    module.fail = fail  # type: ignore[attr-defined]
    sys.modules["failing"] = module
    return verbs.Verb("failing", "fail", "Fail.")


def test_without_a_verb_the_daemon_runs_with_the_flags(daemon: list[config.Config]) -> None:
    assert cli.invoke(["--nodename=mac-1", "--kubelet-port", "0", "--disable-taint"]) == 0
    [settings] = daemon
    assert (settings.node.name, settings.server.port, settings.node.taints) == ("mac-1", 0, ())


def test_switch_with_a_value_as_go_writes_it(daemon: list[config.Config]) -> None:
    assert cli.invoke(["--disable-taint=false", "--no-verify-clients=true"]) == 0
    assert daemon[0].node.taints
    assert not daemon[0].server.verify_clients


def test_mistakes_are_printed_without_a_traceback(
    daemon: list[config.Config], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.invoke(["--kubelet-port=x", "--log-level=y"]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: 2 mistakes in the configuration:\n  --kubelet-port: ")
    assert "Traceback" not in shown.err
    assert not daemon


@pytest.mark.parametrize(
    ("argv", "hint"),
    [(["--nodname", "x"], "--nodename"), (["--log-leve=x"], "--log-level"), (["imag"], "image"), (["xyz"], "run, ps")],
)
def test_unknown_flag_or_verb_names_the_nearest(argv: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.invoke(argv) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: No such ")
    assert hint in shown


def test_flags_of_the_verb_win_over_those_before_it(verb: list[dict[str, str]]) -> None:
    assert cli.invoke(["--cache-dir=/a", "--log-level", "debug", "probe", "--cache-dir=/b"]) == 0
    assert verb == [{"cache-dir": "/b", "log-level": "debug"}]


def test_bare_switch_does_not_swallow_the_verb_behind_it(verb: list[dict[str, str]]) -> None:
    assert cli.invoke(["--disable-taint", "probe"]) == 0
    assert verb == [{"disable-taint": "true"}]


def test_verb_decides_the_exit_code(verb: list[dict[str, str]]) -> None:
    assert cli.invoke(["probe", "--code", "137"]) == 137


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.NotFound("pod x is not here"), 3),
        (errors.InvalidInput("pod x is not here"), 2),
        (errors.Unavailable("pod x is not here"), 8),
    ],
)
def test_error_becomes_one_line_and_its_exit_code(
    error: errors.Error, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(verbs.VERBS, "fail", raising(error))
    assert cli.invoke(["fail"]) == code
    assert capsys.readouterr().err == "error: pod x is not here\n"


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (BrokenPipeError(), 141)])
def test_interruption_and_lost_reader_are_quiet(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(verbs.VERBS, "fail", raising(error))
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    assert cli.invoke(["fail"]) == code
    assert capsys.readouterr().err == ""


def test_help_shows_every_flag_variable_and_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.invoke(["--help"]) == 0
    shown = capsys.readouterr().out
    for option in config.options():
        assert (f"--{option.name}" if option.flag else option.env) in shown
    for name in verbs.VERBS:
        assert f"\n  {name} " in shown


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.invoke(["version"]) == 0
    assert capsys.readouterr().out.startswith("macos-vz-kubelet 0.")


@pytest.mark.parametrize(
    ("arguments", "container", "command"),
    [
        (["pod", "-c", "side", "--", "ls", "-l"], "side", ("ls", "-l")),
        (["-c", "side", "pod", "--", "ls"], "side", ("ls",)),
        (["-it", "pod", "--", "sh", "-c", "a -- b"], None, ("sh", "-c", "a -- b")),
        (["pod", "--", "sh", "-c", "echo $1", "--", "foo"], None, ("sh", "-c", "echo $1", "--", "foo")),
        (["pod", "--", "--", "-c"], None, ("--", "-c")),
    ],
)
def test_options_of_exec_stand_on_both_sides_of_the_pod(
    arguments: list[str], container: str | None, command: tuple[str, ...]
) -> None:
    given = exec_.make_context("exec", arguments).params
    assert (given["pod"], given["container"], given["command"]) == ("pod", container, command)


@pytest.mark.parametrize("arguments", [["pod"], ["pod", "ls"], ["pod", "sh", "x", "--", "y"], ["pod", "--"]])
def test_a_command_without_its_dashes_is_not_taken_apart(arguments: list[str]) -> None:
    with pytest.raises(click.UsageError, match="exec POD -- COMMAND"):
        exec_.make_context("exec", arguments)


def test_a_misspelt_option_of_exec_is_no_pod() -> None:
    with pytest.raises(click.NoSuchOption, match="--contianer"):
        exec_.make_context("exec", ["--contianer", "vm", "pod", "--", "true"])
