"""``run POD.yaml``: a pod on this machine, without any cluster."""

import asyncio
import sys
from pathlib import Path

import click

from vzkubelet.cli import flags
from vzkubelet.cli.exec import VERB_SETTINGS
from vzkubelet.errors import InvalidInput


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("file", metavar="POD.yaml")
@flags.some(*VERB_SETTINGS)
@click.pass_context
def run(ctx: click.Context, /, file: str, **_: str | None) -> int:
    """Run the pod in POD.yaml (- for stdin) on this machine and print its first container's log.

    The file may also hold the ConfigMaps and Secrets that the pod refers to. Events go to stderr. Ctrl-C deletes the
    pod gracefully. The exit code is that of the first container. Meanwhile `ps`, `exec`, `logs` and `rm` in other
    terminals act on the pod.
    """
    from vzkubelet.daemon import standalone
    from vzkubelet.pods import manifest

    settings = flags.standalone(ctx)
    parsed = manifest.parse(_text(file), file)

    def write(data: bytes) -> None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    return asyncio.run(standalone.run(settings, parsed, write))


def _text(file: str) -> str:
    if file == "-":
        return sys.stdin.read()
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidInput(f"cannot read {file}: {getattr(exc, 'strerror', None) or exc}") from exc
