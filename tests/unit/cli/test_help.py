"""What ``--help`` promises is what happens."""

import pytest

from vzkubelet import cli, config, errors
from vzkubelet.cli.verbs import EXIT_CODES


def all_errors(kind: type[errors.Error] = errors.Error) -> set[type[errors.Error]]:
    return {kind}.union(*(all_errors(child) for child in kind.__subclasses__()))


def test_every_exit_code_is_told_and_none_is_invented(capsys: pytest.CaptureFixture[str]) -> None:
    """Hazard: scripts test for codes that only the source knows."""
    raised = {kind.exit_code for kind in all_errors()}
    signals = {cli.INTERRUPTED_EXIT_CODE, cli.BROKEN_PIPE_EXIT_CODE, cli.TERMINATED_EXIT_CODE}
    assert set(EXIT_CODES) == raised | {0, cli.USAGE_EXIT_CODE} | signals
    assert cli.invoke(["--help"]) == 0
    shown = capsys.readouterr().out
    for code, text in EXIT_CODES.items():
        assert f"\n  {code} " in shown
        assert text[:40] in shown


@pytest.mark.parametrize("verb", ["run", "exec", "logs", "rm"])
def test_verbs_name_the_variables_that_they_obey(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Hazard: `run` fails to log in, and its help does not say where the login comes from."""
    assert cli.invoke([verb, "--help"]) == 0
    shown = capsys.readouterr().out
    for setting in config.options():
        if setting.env and setting.target.split(".")[0] in ("guests", "vz", "machines", "sidecars"):
            assert setting.env in shown


def test_the_help_says_what_settings_without_a_flag_are_called_in_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.invoke(["--help"]) == 0
    assert "lower case with dashes: vz-ssh-user" in " ".join(capsys.readouterr().out.split())


def test_a_variable_in_the_file_is_told_its_name_there() -> None:
    host = config.Host(name="h", platform="linux", home="/home/u")
    for variable, name in (("VZ_SSH_PASSWORD", "vz-ssh-password"), ("VKUBELET_POD_IP", "node-ip")):
        with pytest.raises(errors.InvalidInput, match=f"{variable}: no such setting, did you mean {name}"):
            config.load({}, {}, {variable: "x"}, purpose=config.Purpose.STANDALONE, host=host)
