"""The command `tools/guest-image`: build a guest disk, push it with the product's own program."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from .build import AUX, DISK, build, check_host, deliver
from .errors import BuildError
from .image_config import Defaults, document
from .inputs import resolve
from .rootfs import GuestSettings

IMAGE_CONFIG = "image-config.json"
DEFAULT_PASSWORD = "vz"
_DESCRIPTION = """\
Builds a small Linux guest for tests and demonstrations out of Debian packages: an EFI-bootable raw disk, its firmware
variables and an OCI image config. The same inputs give the same bytes. The root password is public: it is a fixture,
no image for a machine that others can reach.
"""


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "macos-vz-kubelet-tests" / "guest-image"


def _words(text: str) -> list[str]:
    """A JSON list of strings, or one word."""
    if not text.startswith("["):
        return [text] if text else []
    try:
        value = json.loads(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON list: {exc}") from exc
    if not all(isinstance(word, str) for word in value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of strings")
    return list(value)


def _addition(text: str) -> tuple[str, Path, int]:
    """HOST:GUEST[:MODE], the mode octal."""
    parts = text.split(":")
    try:
        match parts:
            case [host, guest]:
                return guest, Path(host), 0o755 if os.access(host, os.X_OK) else 0o644
            case [host, guest, mode]:
                return guest, Path(host), int(mode, 8)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{text!r}: the mode is not octal") from exc
    raise argparse.ArgumentTypeError(f"{text!r} is not HOST:GUEST[:MODE]")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("guest-image", description=_DESCRIPTION, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    build_parser = commands.add_parser("build", help="write disk.img, aux.img, image-config.json and manifest.json")
    push_parser = commands.add_parser("push", help="build, then push with macos-vz-kubelet image push")
    for command in (build_parser, push_parser):
        disk = command.add_argument_group("disk")
        disk.add_argument("--size-mib", type=int, default=128, help="size of the disk (default 128), sparse")
        disk.add_argument("--root-password", default=DEFAULT_PASSWORD, help=f"default {DEFAULT_PASSWORD}")
        disk.add_argument("--hostname", default="guest", help="default guest")
        disk.add_argument("--busybox", type=Path, metavar="FILE", help="a static busybox instead of Debian's")
        disk.add_argument(
            "--add", type=_addition, action="append", default=[], metavar="HOST:GUEST[:MODE]",
            help="one more file for the guest, mode octal; repeatable",
        )  # fmt: skip
        config = command.add_argument_group("image config (none by default)")
        config.add_argument("--entrypoint", type=_words, default=[], metavar="WORD|JSON")
        config.add_argument("--cmd", type=_words, default=[], metavar="WORD|JSON")
        config.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
        config.add_argument("--user", default="", metavar="UID[:GID]")
        config.add_argument("--workdir", default="", metavar="DIR")
    build_parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    push_parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="where the files are kept")
    push_parser.add_argument("--plain-http", action="store_true", help="registry without TLS, on loopback only")
    push_parser.add_argument("reference", metavar="REF", help="name and tag to push as")
    return parser


def _build(options: argparse.Namespace) -> None:
    began = time.monotonic()

    def report(line: str) -> None:
        print(f"[{time.monotonic() - began:5.1f} s] {line}", file=sys.stderr, flush=True)

    check_host()
    settings = GuestSettings(options.root_password, options.hostname, options.busybox, tuple(options.add))
    cache = _cache()
    inputs = resolve(settings, options.size_mib, cache / "packages.json")
    entry = build(inputs, cache, report)
    deliver(entry, options.output)
    defaults = Defaults(options.entrypoint, options.cmd, options.env, options.user, options.workdir)
    (options.output / IMAGE_CONFIG).write_text(document(defaults))
    report(f"{options.output}: {', '.join(sorted(path.name for path in options.output.iterdir()))}")


def push_command(output: Path, reference: str, *, plain_http: bool) -> list[str]:
    """The product's command line that packs and pushes what `build` wrote to `output`."""
    program = Path(sys.executable).with_name("macos-vz-kubelet")
    return [
        str(program) if program.exists() else "macos-vz-kubelet",
        *("image", "push", "--disk-path", str(output / DISK), "--aux-path", str(output / AUX)),
        *("--os", "linux", "--arch", "amd64", "--image-config", str(output / IMAGE_CONFIG)),
        *(["--plain-http"] if plain_http else []),
        reference,
    ]


def _push(options: argparse.Namespace) -> int:
    command = push_command(options.output, options.reference, plain_http=options.plain_http)
    try:
        return subprocess.run(command, check=False).returncode
    except FileNotFoundError as exc:
        raise BuildError("macos-vz-kubelet not found: run `make setup`, then this with .venv/bin on the PATH") from exc


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0, 1 for a build or push that failed, 2 for wrong usage."""
    options = _parser().parse_args(arguments)
    try:
        _build(options)
        return _push(options) if options.command == "push" else 0
    except BuildError as exc:
        print(f"guest-image: {exc}", file=sys.stderr)
        return 1
