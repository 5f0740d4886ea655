"""What synthetic processes do follows from their command line and the time."""

import math

import pytest

from vzkubelet.machines.synthetic_guest import Course, ProcessRecord, course, ending
from vzkubelet.ports import ExitStatus

FOR_EVER = Course(None)
NOT_UNDERSTOOD = Course(None, understood=False)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["true"], Course(0.0)),
        (["/bin/false"], Course(0.0, 1)),
        (["sleep", "2.5"], Course(2.5)),
        (["sleep", "infinity"], FOR_EVER),
        (["sh", "-c", "exit 3"], Course(0.0, 3)),
        (["sh", "-c", "exit 300"], Course(0.0, 44)),
        (["/bin/sh", "-c", "sleep 1; sleep 2 && exit 7; sleep 9"], Course(3.0, 7)),
        (["sh", "-c", "sleep 1; false"], Course(1.0, 1)),
        (["sh", "-c", "echo hello"], NOT_UNDERSTOOD),
        (["sh", "-c", "exit 'unbalanced"], NOT_UNDERSTOOD),
        (["nginx", "-g", "daemon off;"], NOT_UNDERSTOOD),
        ([], NOT_UNDERSTOOD),
    ],
)
def test_few_programs_are_understood_and_the_rest_runs_for_ever(argv: list[str], expected: Course) -> None:
    assert course(argv) == expected


def test_a_process_ends_in_its_time() -> None:
    assert ending(ProcessRecord("a", ("sleep", "5"), 100.0)) == (105.0, ExitStatus(0))
    assert ending(ProcessRecord("a", ("nginx",), 100.0))[0] == math.inf


def test_a_signal_ends_a_process_unless_it_has_ended() -> None:
    assert ending(ProcessRecord("a", ("sleep", "5"), 100.0, 102.0, 15)) == (102.0, ExitStatus(143, 15))
    assert ending(ProcessRecord("a", ("sleep", "5"), 100.0, 106.0, 15)) == (105.0, ExitStatus(0))
