"""The group of the image verbs: each is there, is told in the help, and is imported when it is called."""

import plistlib

import click
import pytest

from vzkubelet import cli
from vzkubelet.cli.image import VERBS, image, pull


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.invoke(["image", name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"image {name} " in shown
    command = image.get_command(click.Context(image), name)
    assert command is not None
    assert command.name == name
    assert command.help


def test_the_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.invoke(["image", "--help"]) == 0
    shown = capsys.readouterr().out
    for name, text in VERBS.items():
        assert f"\n  {name} " in shown
        assert text[:30] in shown


def test_an_unknown_verb_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.invoke(["image", "exprt"]) == 2
    assert capsys.readouterr().err == "error: No such command 'image exprt'. Did you mean export?\n"
    assert cli.invoke(["image", "zzz"]) == 2
    assert "There are pull, push" in capsys.readouterr().err


def test_a_mac_refuses_guests_of_newer_ones_before_it_downloads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.mac_ver", lambda: ("14.5", ("", "", ""), "arm64"))
    refusal = pull._hardware_model_refusal("darwin")
    assert refusal is not None
    assert refusal(plistlib.dumps({"MinimumSupportedOS": [13, 0, 0]})) is None
    assert refusal(plistlib.dumps({"MinimumSupportedOS": [15, 0, 0]})) is not None
    assert pull._hardware_model_refusal("linux") is None
