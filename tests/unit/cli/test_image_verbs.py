"""The group of the image verbs: each is there, is told in the help, and is imported when it is called."""

import errno
import os
import plistlib

import click
import pytest

from vzkubelet import cli
from vzkubelet.cli.image import VERBS, image, pull
from vzkubelet.images.store import store_fault


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


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        (errno.EROFS, 5, "nothing can be written there, give another --cache-dir"),
        (errno.ENOTDIR, 2, "give a directory as --cache-dir"),
        (errno.EACCES, 5, "run it as the user of the agent"),
        (errno.EIO, 8, "Input/output error"),
    ],
)
def test_a_cache_that_cannot_be_used_is_no_registry_that_is_away(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int, code: int, words: str
) -> None:
    """Hazard: exit code 8 for a volume that may only be read; scripts try again what never works."""

    @click.command()
    def failing() -> None:
        exc = OSError(number, os.strerror(number))
        raise store_fault(exc, "registry.example/vm:1") from exc

    monkeypatch.setattr(type(image), "get_command", lambda *_: failing)
    assert cli.invoke(["image", "ls"]) == code
    told = capsys.readouterr().err
    assert told.startswith("error: registry.example/vm:1: ")
    assert words in told


def test_a_mac_refuses_guests_of_newer_ones_before_it_downloads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.mac_ver", lambda: ("14.5", ("", "", ""), "arm64"))
    refusal = pull._hardware_model_refusal("darwin")
    assert refusal is not None
    assert refusal(plistlib.dumps({"MinimumSupportedOS": [13, 0, 0]})) is None
    assert refusal(plistlib.dumps({"MinimumSupportedOS": [15, 0, 0]})) is not None
    assert pull._hardware_model_refusal("linux") is None
