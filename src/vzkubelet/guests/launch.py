"""How a process comes to be in the guest: its checks, its environment and its arguments as shell text.

The texts of failures are those of container runtimes, which people and tools know.
"""

import json
from dataclasses import dataclass

from vzkubelet.errors import Error, Forbidden, InvalidInput, NotFound, Unavailable, clip
from vzkubelet.guests.shell import quote, words

DEFAULT_PATH = "/usr/bin:/bin"
"""Where a program is looked for when its environment has no PATH, as execvp(3) does."""

REASON = "StartError"


@dataclass(frozen=True, slots=True)
class Program:
    """What is to be executed. `env` None means the session's own environment, `working_dir` empty its directory."""

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] | None
    working_dir: str = ""


def script(program: Program, redirections: str, *, announce: str, find_interpreter: bool = False) -> str:
    """Shell text that checks the program, runs `announce` and becomes the program.

    It calls ``fail KIND [detail]`` when it cannot. Looking for a script's interpreter costs a few processes.

    Raises: InvalidInput for what cannot be executed.
    """
    if not program.argv:
        raise InvalidInput("no command specified", reason=REASON)
    if program.env is not None and "=" in program.argv[0]:
        raise InvalidInput(
            f"{_go_quoted(program.argv[0])} cannot be started: a program's name holds no equals sign", reason=REASON
        )  # env(1) would take it for an assignment
    for name, _ in program.env or ():
        if not name or "=" in name:
            raise InvalidInput(f"{_go_quoted(name)} cannot be the name of an environment variable", reason=REASON)
    lines = [_change_directory(program.working_dir)] if program.working_dir else []
    lines.append(_find(program))
    if find_interpreter:
        lines.append(_find_interpreter())
    lines.append(announce)
    lines.append(f"exec {_command(program)} {redirections}".rstrip())
    return "\n".join(lines) + "\n"


def _change_directory(path: str) -> str:
    absent = f"if [ -d {quote(path)} ];then fail chdir denied;elif [ -e {quote(path)} ];then fail chdir file;fi"
    return f"cd {quote(path)} 2>/dev/null||{{ {absent};fail chdir missing;}}"


def _find(program: Program) -> str:
    """Leaves the program's path in `p`."""
    name = program.argv[0]
    if "/" in name:
        return f'p={quote(name)};[ -e "$p" ]||fail missing;[ -d "$p" ]&&fail directory;[ -x "$p" ]||fail denied'
    if not name:
        return "fail absent"
    found = f'p=${{d:-.}}/{quote(name)};[ -f "$p" ]&&[ -x "$p" ]&&break;p='
    if program.env is None:
        return f'p=;set -f;IFS=:;for d in $PATH;do {found};done;unset IFS;set +f;[ "$p" ]||fail absent'
    path = dict(program.env).get("PATH", DEFAULT_PATH)
    return f'p=;for d in {words(path.split(":"))};do {found};done;[ "$p" ]||fail absent'


def _find_interpreter() -> str:
    first_line = "$(dd if=\"$p\" bs=256 count=1 2>/dev/null|LC_ALL=C tr -d '\\000'|head -n 1)"
    return (
        f"case {first_line} in '#!'*)"
        f'l={first_line};l=${{l#??}};l=${{l#"${{l%%[! ]*}}"}};[ -x "${{l%%[ \t]*}}" ]||fail interpreter;;esac'
    )


def _command(program: Program) -> str:
    argv = words(program.argv)
    if program.env is None:
        return argv
    env = words([f"{name}={value}" for name, value in program.env])
    return f"env -i -- {env} {argv}"


def failure(report: str, program: Program) -> Error:
    """The error for what a script reported as ``KIND [detail]``."""
    kind, _, detail = report.strip().partition(" ")
    name = program.argv[0]
    exec_name = f"exec: {_go_quoted(name)}"
    match kind:
        case "absent":
            return NotFound(f"{exec_name}: executable file not found in $PATH", reason=REASON)
        case "missing":
            return NotFound(f"{exec_name}: stat {name}: no such file or directory", reason=REASON)
        case "interpreter":
            return NotFound(f"exec {name}: no such file or directory", reason=REASON)
        case "directory":
            return Forbidden(f"{exec_name}: is a directory", reason=REASON)
        case "denied":
            return Forbidden(f"{exec_name}: permission denied", reason=REASON)
        case "chdir":
            return _chdir_failure(detail, program.working_dir)
        case "launch":
            return Forbidden(f"{exec_name}: the guest could not launch it: {clip(detail)}", reason=REASON)
        case "place":
            return Unavailable(
                "the guest has no writable place for a process: neither in the login user's home nor /var/run"
            )
        case _:
            return Unavailable(f"the guest answered a start with {clip(report)!r}")


def _chdir_failure(detail: str, path: str) -> Error:
    text = f"chdir to cwd ({_go_quoted(path)}) failed"
    match detail:
        case "denied":
            return Forbidden(f"{text}: permission denied", reason=REASON)
        case "file":
            return Forbidden(f"{text}: not a directory", reason=REASON)
        case _:
            return NotFound(f"{text}: no such file or directory", reason=REASON)


def _go_quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
