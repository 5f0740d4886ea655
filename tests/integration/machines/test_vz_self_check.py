"""The self-check over the double: clean on every host version, and every planted difference is told."""

import copy
import json
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.apple_double import VERSIONS, MacHost, imported_frameworks, mac_host
from vzkubelet.machines.vz import apple, self_check, self_check_api
from vzkubelet.machines.vz.launch import Interpreter
from vzkubelet.machines.vz.self_check_report import Check, State

__all__ = ["mac_host"]

Document = dict[str, Any]


def interpreter(host: MacHost) -> Interpreter:
    return Interpreter(sys.executable, host.environment(), is_signed_app=False)


@pytest.mark.parametrize("version", VERSIONS, ids=str)
def test_host_as_the_sdk_says(tmp_path: Path, version: tuple[int, int]) -> None:
    host = MacHost(tmp_path / "mac", version=list(version))
    report = self_check.run(interpreter=interpreter(host))
    assert [check for check in report.checks if check.state is not State.SKIPPED] == []
    assert report.passed
    assert set(report.ok) == {"host", "api", "creation", "queue", "configuration"}
    assert report.ok["api"] > 150
    assert report.host.macos == f"{version[0]}.{version[1]}"
    host.check()


def test_newer_host_has_more_to_compare(tmp_path: Path) -> None:
    counts = []
    for version in ([13, 5], [26, 0]):
        with imported_frameworks(MacHost(tmp_path / str(version[0]), version=version)):
            counts.append(len(list(self_check_api.compare_api(self_check_api.api(), apple.host()))))
    assert counts[0] < counts[1]


def method(document: Document, owner: str, selector: str) -> Any:
    return document["classes"][owner]["methods"][selector]


def invented_class(document: Document) -> None:
    document["classes"]["VZInvented"] = {**document["classes"]["VZVirtualMachine"], "methods": {}}


def invented_selector(document: Document) -> None:
    methods = document["classes"]["VZVirtualMachine"]["methods"]
    methods["levitate:"] = {**methods["stopWithCompletionHandler:"], "python": "levitate_"}


def another_count(document: Document) -> None:
    method(document, "VZVirtualMachine", "stopWithCompletionHandler:")["arguments"].append("@")


def another_block(document: Document) -> None:
    method(document, "VZVirtualMachine", "startWithCompletionHandler:")["blocks"]["0"] = ["v", "@", "@"]


def no_out_parameter(document: Document) -> None:
    method(document, "VZVirtualMachineConfiguration", "validateWithError:")["out"] = []


def another_kind(document: Document) -> None:
    method(document, "VZVirtualMachine", "isSupported")["kind"] = "instance"


def another_result(document: Document) -> None:
    method(document, "VZVirtualMachine", "state")["returns"] = "Z"


def another_constant(document: Document) -> None:
    document["constants"]["VZDiskImageSynchronizationModeFull"]["value"] = 0


def invented_function(document: Document) -> None:
    document["functions"]["dispatch_levitate"] = {"arguments": 1}


def invented_protocol(document: Document) -> None:
    document["protocols"]["VZInventedDelegate"] = {}


DIFFERENCES: list[tuple[Callable[[Document], None], str, str]] = [
    (invented_class, "VZInvented", "no such class"),
    (invented_selector, "-[VZVirtualMachine levitate:]", "no such selector"),
    (another_count, "-[VZVirtualMachine stopWithCompletionHandler:]", "1"),
    (another_block, "-[VZVirtualMachine startWithCompletionHandler:]", "v@"),
    (no_out_parameter, "-[VZVirtualMachineConfiguration validateWithError:]", "o^@"),
    (another_kind, "-[VZVirtualMachine isSupported]", "the other kind"),
    (another_result, "-[VZVirtualMachine state]", "q"),
    (another_constant, "VZDiskImageSynchronizationModeFull", "1"),
    (invented_function, "dispatch_levitate", "no such function"),
    (invented_protocol, "VZInventedDelegate", "rotocol"),
]


@pytest.mark.parametrize(("plant", "name", "found"), DIFFERENCES, ids=[plant.__name__ for plant, _, _ in DIFFERENCES])
def test_planted_difference(mac_host: MacHost, plant: Callable[[Document], None], name: str, found: str) -> None:
    document = copy.deepcopy(self_check_api.api())
    plant(document)
    with imported_frameworks(mac_host):
        told = [c for c in self_check_api.compare_api(document, apple.host()) if c.state is not State.OK]
    assert [(check.name, check.state) for check in told] == [(name, State.FAILED)]
    assert found in told[0].found


@pytest.mark.parametrize(
    ("here", "there"),
    [
        ("Z", b"B"),
        ("Z", b"Z"),
        ("q", b"l"),
        ("^@", b"o^@"),
        ("@", b'@"NSString"'),
        ("{A=qqq}", b"{A=qqq}"),
        ("v", b"Vv"),
    ],
)
def test_encodings_that_mean_the_same(here: str, there: bytes) -> None:
    assert self_check_api._plain(here) == self_check_api._plain(there)


def test_init_that_works_is_a_difference_and_no_failure(mac_host: MacHost) -> None:
    document = copy.deepcopy(self_check_api.api())
    made = document["classes"]["VZVirtioSocketListener"] = copy.deepcopy(
        document["classes"]["VZNATNetworkDeviceAttachment"]
    )
    made["methods"] = {"new": made["methods"]["new"]}
    with imported_frameworks(mac_host):
        checks = [c for c in self_check_api.compare_creation(document, apple.host()) if c.state is not State.OK]
    assert [(check.name, check.state) for check in checks] == [
        ("VZVirtioSocketListener.alloc().init()", State.DIFFERENT)
    ]


def test_missing_entitlement_fails_the_configurations(mac_host: MacHost) -> None:
    mac_host.configure(entitlements=[])
    report = self_check.run(interpreter=interpreter(mac_host))
    failed = [check for check in report.checks if check.state is State.FAILED]
    assert failed
    assert {check.stage for check in failed} == {"configuration"}
    assert all("entitlement" in check.found for check in failed)
    assert not report.passed


def test_guest_is_booted_and_stopped(mac_host: MacHost, tmp_path: Path) -> None:
    kernel = tmp_path / "Image"
    kernel.write_bytes(b"\0" * 56 + b"ARM\x64" + bytes(4096))
    report = self_check.run(kernel, interpreter=interpreter(mac_host))
    assert report.ok.get("guest", 0) >= 2, report.summary
    assert mac_host.running() == []
    assert {"start", "stop"} <= {call["operation"] for call in mac_host.calls()}


def test_missing_kernel_is_a_failed_check(mac_host: MacHost, tmp_path: Path) -> None:
    report = self_check.run(tmp_path / "none", interpreter=interpreter(mac_host))
    (failed,) = [check for check in report.checks if check.state is State.FAILED]
    assert failed.stage == "guest"
    assert "does not exist" in failed.found


def test_crash_of_a_stage_costs_only_that_stage(mac_host: MacHost, tmp_path: Path) -> None:
    crashing = tmp_path / "python"
    crashing.write_text(f'#!/bin/sh\n[ "$4" = creation ] && kill -ABRT $$\nexec {sys.executable} "$@"\n')
    crashing.chmod(crashing.stat().st_mode | stat.S_IXUSR)
    report = self_check.run(interpreter=Interpreter(str(crashing), mac_host.environment(), is_signed_app=True))
    (failed,) = [check for check in report.checks if check.state is State.FAILED]
    assert failed == Check("creation", "the whole stage", State.FAILED, "an answer", "killed by SIGABRT")
    assert {"api", "queue", "configuration"} <= set(report.ok)


def test_intel_mac_fails_with_the_reason(mac_host: MacHost) -> None:
    mac_host.configure(arch="x86_64")
    report = self_check.run(interpreter=interpreter(mac_host))
    (failed,) = [check for check in report.checks if check.state is not State.SKIPPED]
    assert (failed.stage, failed.state) == ("configuration", State.FAILED)
    assert "Intel" in failed.found
    assert not report.passed


@pytest.mark.parametrize(
    ("versions", "state"),
    [
        ({"pyobjc-core": "12.2.2", "pyobjc-framework-Cocoa": "12.2.2"}, State.OK),
        ({"pyobjc-core": "13.0", "pyobjc-framework-Cocoa": "12.2.2"}, State.DIFFERENT),
        ({"pyobjc-core": "11.1", "pyobjc-framework-Cocoa": "11.1"}, State.FAILED),
    ],
)
def test_pyobjc_of_several_releases_is_told(versions: dict[str, str], state: State) -> None:
    assert [check.state for check in self_check.package_checks(versions)] == [state]


def test_report_is_readable_twice(mac_host: MacHost) -> None:
    report = self_check.run(interpreter=interpreter(mac_host))
    document = json.loads(report.json)
    assert document["host"]["macos"] == "15.1"
    assert document["ok"] == report.ok
    assert report.text == f"{report.summary}\n\nPlease send this report along:\n\n{report.json}"
    assert "Everything that the agent needs is here." in report.summary


def test_a_macos_guest_is_validated_when_the_catalogue_may_be_asked(mac_host: MacHost) -> None:
    mac_host.configure(latest_restore_image={"url": "https://example.com/a.ipsw", "version": [15, 1], "build": "24B83"})
    offline = self_check.run(interpreter=interpreter(mac_host))
    (skipped,) = [check for check in offline.checks if check.stage == "configuration"]
    assert (skipped.name, skipped.state) == ("a macOS guest", State.SKIPPED)
    assert "--online" in skipped.found
    online = self_check.run(interpreter=interpreter(mac_host), is_online=True)
    assert online.ok["configuration"] == offline.ok["configuration"] + 1, online.summary


def test_a_catalogue_that_does_not_answer_is_told(mac_host: MacHost) -> None:
    report = self_check.run(interpreter=interpreter(mac_host), is_online=True)
    (failed,) = [check for check in report.checks if check.state is State.FAILED]
    assert (failed.stage, failed.name) == ("configuration", "a macOS guest")
