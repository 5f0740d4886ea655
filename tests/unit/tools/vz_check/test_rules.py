"""One planted breach for each rule, and beside it the code that should have been written."""

import pytest

from tests.unit.tools.vz_check import callbacks, calls
from tests.unit.tools.vz_check.case import Case
from tests.unit.tools.vz_check.conftest import Check
from tools.vz_check.findings import RULES

CASES = [*calls.CASES, *callbacks.CASES]


def _id(case: Case) -> str:
    return f"{case.rule}{': ' if case.name else ''}{case.name}"


@pytest.mark.parametrize("case", CASES, ids=_id)
def test_breach_is_found(check: Check, case: Case) -> None:
    checker = check(case.breach)
    text = (checker.package.modules[-1].path).read_text().splitlines()
    lines = [number for number, line in enumerate(text, start=1) if line.endswith("# BREACH")]
    assert len(lines) == 1
    assert [(finding.path, finding.line, finding.rule) for finding in sorted(checker.findings)] == [
        ("src/subject.py", lines[0], case.rule)
    ]


@pytest.mark.parametrize("case", CASES, ids=_id)
def test_counterpart_is_clean(check: Check, case: Case) -> None:
    assert sorted(check(case.clean).findings) == []


def test_arm64_only_needs_a_host_check_where_the_package_has_none(check: Check) -> None:
    breach = "def f(host: Any):\n    return make(V.VZMacPlatformConfiguration)"
    clean = "def f(host: Any):\n    if host.is_apple_silicon:\n        return make(V.VZMacPlatformConfiguration)"
    assert {finding.rule for finding in check(breach, availability="").findings} == {"arm64-unguarded"}
    assert not check(clean, availability="").findings
    assert not check(breach).findings


def test_every_rule_has_a_planted_breach() -> None:
    planted = {case.rule for case in CASES} | {"arm64-unguarded"}
    assert planted == set(RULES)
    assert len(RULES) >= 25


def test_findings_say_what_to_write_instead(check: Check) -> None:
    (finding,) = check("x = V.VZMacPlatformConfiguration.alloc().init()").findings
    assert str(finding).endswith(
        "unavailable-init: VZMacPlatformConfiguration refuses `init` as NS_UNAVAILABLE; "
        "write make(VZMacPlatformConfiguration)"
    )
