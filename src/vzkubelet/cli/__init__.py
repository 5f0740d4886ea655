"""The command line: ``macos-vz-kubelet`` without a verb is the daemon, the verbs are for people.

One module per verb, imported when it is called, so that ``--help`` stays quick. A verb returns None or its exit code
and raises `vzkubelet.errors`; this module is where an error becomes one line on stderr and an exit code. It imports
next to nothing itself: until `main` runs, Ctrl-C is answered by the interpreter, with a traceback.
"""

import errno
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

OUTPUT_EXIT_CODE = 1
USAGE_EXIT_CODE = 2
INTERRUPTED_EXIT_CODE = 130
BROKEN_PIPE_EXIT_CODE = 141
TERMINATED_EXIT_CODE = 143
"""128 + SIGINT, SIGPIPE and SIGTERM, as a shell reports them."""
_UNWRITABLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF})
"""What stdout answers. The same of files of ours does not get here: the rooms translate it and name the file."""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """The console script. Never returns."""
    try:
        _fill_standard_descriptors()
        exit_code = invoke(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:  # while what `invoke` needs was being imported
        exit_code = INTERRUPTED_EXIT_CODE
    if exit_code == INTERRUPTED_EXIT_CODE:
        # A second Ctrl-C has nothing left to interrupt but the interpreter's own end.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(exit_code)


def invoke(argv: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    import click

    from vzkubelet import config
    from vzkubelet.cli.interruption import Terminated
    from vzkubelet.cli.verbs import root
    from vzkubelet.errors import Error

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
    except Terminated:
        return TERMINATED_EXIT_CODE
    except BrokenPipeError:
        # The reader has gone (`… | head`). Point stdout elsewhere, or the interpreter reports it again while exiting.
        sys.stdout = None
        return BROKEN_PIPE_EXIT_CODE
    except OSError as exc:
        if exc.errno not in _UNWRITABLE or exc.filename is not None:
            raise
        sys.stdout = None  # as above
        return _fail(f"cannot write the output: {exc.strerror}", OUTPUT_EXIT_CODE)
    except RuntimeError:  # of pathlib, which was asked for ``~``
        if config.has_home():
            raise
        return _fail(config.NO_HOME, USAGE_EXIT_CODE)
    return outcome if isinstance(outcome, int) else 0


def _fill_standard_descriptors() -> None:
    """Open /dev/null for those of stdin, stdout and stderr that the caller closed.

    Otherwise the next file or socket gets the number, and somebody's output goes into it.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
            os.set_inheritable(descriptor, True)
            stream = open(descriptor, "w" if descriptor else "r", closefd=False)  # noqa: SIM115 - as long as we
            setattr(sys, name, stream)


def _fail(message: str, exit_code: int) -> int:
    import click

    click.echo(f"error: {message}", err=True)
    return exit_code
