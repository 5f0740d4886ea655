"""The command line: ``macos-vz-kubelet`` without a verb is the daemon, the verbs are for people.

One module per verb, imported when it is called, so that ``--help`` stays quick. A verb returns None or its exit code
and raises `vzkubelet.errors`; this module is where an error becomes one line on stderr and an exit code.
"""

import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from vzkubelet.cli.verbs import root
from vzkubelet.errors import Error

USAGE_EXIT_CODE = 2
INTERRUPTED_EXIT_CODE = 130
BROKEN_PIPE_EXIT_CODE = 141
"""128 + SIGINT and 128 + SIGPIPE, as a shell reports them."""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """The console script. Never returns."""
    sys.exit(invoke(sys.argv[1:] if argv is None else argv))


def invoke(argv: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    try:
        # Not `root.main`, which has exit codes of its own for an interruption and a lost reader.
        with root.make_context("macos-vz-kubelet", list(argv)) as context:
            outcome = root.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as exc:
        return exc.exit_code
    except Error as exc:
        return _fail(str(exc), exc.exit_code)
    except click.ClickException as exc:
        return _fail(exc.format_message(), USAGE_EXIT_CODE)
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED_EXIT_CODE
    except BrokenPipeError:
        # The reader has gone (`… | head`). Point stdout elsewhere, or the interpreter reports it again while exiting.
        sys.stdout = None
        return BROKEN_PIPE_EXIT_CODE
    return outcome if isinstance(outcome, int) else 0


def _fail(message: str, exit_code: int) -> int:
    click.echo(f"error: {message}", err=True)
    return exit_code
