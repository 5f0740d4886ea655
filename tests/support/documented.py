"""Commands in documents: indented code blocks, and what each line of them asks of the program."""

import re
from collections.abc import Iterator
from pathlib import Path

import click

from vzkubelet.cli.verbs import VERBS, root

PROGRAM = "macos-vz-kubelet"


def blocks(document: Path) -> list[str]:
    """The indented code blocks, dedented."""
    found = re.findall(r"(?:^    .*\n(?:\n(?=    ))?)+", document.read_text(), flags=re.MULTILINE)
    return [re.sub(r"^    ", "", block, flags=re.MULTILINE) for block in found]


def calls(document: Path) -> Iterator[list[str]]:
    """The words behind the program's name, of each call; substituted commands are one word."""
    text = "\n".join(blocks(document)).replace("\\\n", " ")
    for call in re.findall(rf"{PROGRAM} ([^\n|#)]*)", text):
        yield re.sub(r'"[^"]*"', "VALUE", call).partition(" -- ")[0].split()


def check_call(words: list[str]) -> str:
    """The verb, known to exist with all the options that are given. Raises AssertionError."""
    context = click.Context(root)
    command: click.Command = root
    rest = list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        assert command is not root or rest[0] in VERBS, f"no verb {rest[0]}: {words}"
        found = command.get_command(context, rest.pop(0))
        assert found is not None, words
        command = found
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    for word in rest:
        if word.startswith("-"):
            assert word.partition("=")[0] in known, f"{word} is no option of {command.name}: {words}"
    return command.name or ""
