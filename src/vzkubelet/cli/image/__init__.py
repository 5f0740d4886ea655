"""``macos-vz-kubelet image``: virtual machine images by hand, in the habits of docker, oras and tart.

One module per verb, imported when it is called.
"""

import difflib
import errno
import importlib
import keyword
from typing import Any

import click

from vzkubelet.errors import Forbidden, InvalidInput, Unavailable

VERBS = {
    "pull": "Pull an image into the cache, where pods of this host find it.",
    "push": "Push a virtual machine as an image.",
    "inspect": "Show an image: format, machine, files, and what this host has of it.",
    "ls": "List the images of this host.",
    "rm": "Remove images. Machines made of them live on.",
    "prune": "Free space: leftovers, and images that nobody uses.",
    "verify": "Read images in full and compare them with their digests.",
    "pin": "Keep images whatever the space.",
    "unpin": "Let images go again when space is short.",
    "convert": "Push an image in another format.",
    "import": "Take a virtual machine of this host's disk into the cache.",
    "export": "Make a virtual machine of macosvm or tart out of an image.",
    "create": "Install macOS into a new directory, ready to be pushed (Mac).",
    "login": "Log in to a registry: image pull and push use it, and docker too.",
    "logout": "Forget the login of a registry, Docker Hub's when none is named.",
}
"""Their first help line is kept here so that listing the verbs imports none of them."""


class _LazyGroup(click.Group):
    """Imports a verb when it is called."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Unavailable as exc:
            # The rooms count it as a fault of the host. To a person it says: not as this user, or not there.
            match exc.__cause__:
                case PermissionError():
                    raise Forbidden(f"{exc}: run it as the user of the agent, or give another --cache-dir") from exc
                case OSError(errno=errno.EROFS):
                    raise Forbidden(f"{exc}: nothing can be written there, give another --cache-dir") from exc
                case NotADirectoryError():
                    raise InvalidInput(f"{exc}: give a directory as --cache-dir") from exc
            raise

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        name = f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name
        command = getattr(importlib.import_module(f"vzkubelet.cli.image.{name}"), name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in VERBS:
            near = difflib.get_close_matches(args[0], VERBS, n=1)
            hint = f" Did you mean {near[0]}?" if near else f" There are {', '.join(VERBS)}."
            raise click.UsageError(f"No such command 'image {args[0]}'.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
def image() -> None:
    """Virtual machine images: pull, push, look at, keep, convert, make.

    REF is a name as docker takes it: registry/repository:tag or registry/repository@sha256:digest. Exit codes are
    those of `macos-vz-kubelet --help`.
    """
