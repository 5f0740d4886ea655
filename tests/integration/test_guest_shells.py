"""Scripts of the guest channel through real shells: what goes in is what a program gets, whatever it holds."""

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vzkubelet.guests import launch, shell

SHELLS = {"dash": ["dash"], "bash": ["bash", "--posix"], "busybox": ["busybox", "ash"]}

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
NAME = TEXT.filter(lambda name: name and "=" not in name)


@pytest.mark.parametrize("name", SHELLS)
@settings(max_examples=60)
@given(arguments=st.lists(TEXT, max_size=4), env=st.dictionaries(NAME, TEXT, max_size=4))
def test_arguments_and_environment_survive_the_shell(name: str, arguments: list[str], env: dict[str, str]) -> None:
    env = {**env, "PATH": "/usr/bin:/bin"}
    argv = ("xargs", "-0", "-a", "/proc/self/cmdline", "sh", "-c", "exec cat /proc/$PPID/cmdline /proc/$PPID/environ")
    program = launch.Program((*argv, *arguments), tuple(env.items()))
    script = shell.one_line("fail() { exit 99; }\n" + launch.script(program, "</dev/null", announce=":"))
    line = [*SHELLS[name], "-c", 'IFS= read -r h && eval "$h"']
    done = subprocess.run(line, input=script + b"not for the shell", capture_output=True, check=True)
    cmdline = b"".join(argument.encode() + b"\0" for argument in program.argv)
    assert done.stdout.startswith(cmdline)
    found = done.stdout.removeprefix(cmdline).split(b"\0")[:-1]
    assert sorted(found) == sorted(f"{key}={value}".encode() for key, value in env.items())
