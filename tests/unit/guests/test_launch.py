import pytest

from vzkubelet.errors import Error, Forbidden, InvalidInput, NotFound, Unavailable
from vzkubelet.guests import launch
from vzkubelet.guests.launch import Program


@pytest.mark.parametrize(
    ("report", "kind", "text"),
    [
        ("absent", NotFound, 'exec: "x": executable file not found in $PATH'),
        ("missing", NotFound, 'exec: "x": stat x: no such file or directory'),
        ("interpreter", NotFound, "exec x: no such file or directory"),
        ("directory", Forbidden, 'exec: "x": is a directory'),
        ("denied\n", Forbidden, 'exec: "x": permission denied'),
        ("chdir missing", NotFound, 'chdir to cwd ("/d") failed: no such file or directory'),
        ("chdir denied", Forbidden, 'chdir to cwd ("/d") failed: permission denied'),
        ("chdir file", Forbidden, 'chdir to cwd ("/d") failed: not a directory'),
        ("launch setpriv: bad", Forbidden, 'exec: "x": the guest could not launch it: setpriv: bad'),
    ],
)
def test_reports_become_the_runtimes_errors(report: str, kind: type[Error], text: str) -> None:
    error = launch.failure(report, Program(("x",), (), "/d"))
    assert type(error) is kind
    assert (error.message, error.reason) == (text, "StartError")


@pytest.mark.parametrize("report", ["place", "", "what\nis this"])
def test_a_guest_that_answers_oddly_may_be_asked_again(report: str) -> None:
    assert type(launch.failure(report, Program(("x",), ()))) is Unavailable


@pytest.mark.parametrize(
    "program",
    [
        Program((), ()),
        Program(("a=b",), ()),
        Program(("x",), (("", "1"),)),
        Program(("x",), (("A=B", "1"),)),
        Program(("x", "\0"), ()),
    ],
)
def test_what_cannot_be_executed_is_refused(program: Program) -> None:
    with pytest.raises(InvalidInput):
        launch.script(program, "", announce=":")


def test_a_program_is_looked_for_where_its_own_environment_says() -> None:
    assert "for d in '/a' '/b'" in launch.script(Program(("x",), (("PATH", "/a:/b"),)), "", announce=":")
    assert "for d in '/usr/bin' '/bin'" in launch.script(Program(("x",), ()), "", announce=":")
    assert "for d in $PATH" in launch.script(Program(("x",), None), "", announce=":")
