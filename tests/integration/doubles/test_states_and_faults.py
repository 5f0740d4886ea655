"""The state table, and the faults that a test can inject into each operation."""

import json
import threading
import time

import pytest

from tests.integration.doubles.conftest import MAC, WAIT_S

STOPPED, RUNNING, PAUSED, ERROR, STARTING, PAUSING, RESUMING, STOPPING, SAVING, RESTORING = range(10)
OPERATIONS = ("start", "pause", "resume", "stop", "save", "restore")


def _perform(workshop, vm, operation):
    state = workshop.url("state")
    match operation:
        case "save":
            return workshop.perform(lambda handler: vm.saveMachineStateToURL_completionHandler_(state, handler))
        case "restore":
            return workshop.perform(lambda handler: vm.restoreMachineStateFromURL_completionHandler_(state, handler))
        case _:
            return workshop.perform(getattr(vm, f"{operation}WithCompletionHandler_"))


def _reach(workshop, vm, state):
    way = {STOPPED: (), RUNNING: ("start",), PAUSED: ("start", "pause")}[state]
    for operation in way:
        assert _perform(workshop, vm, operation) is None


@pytest.mark.parametrize(
    ("operation", "state", "after", "code"),
    [
        ("start", STOPPED, RUNNING, None),
        ("start", RUNNING, RUNNING, 4),
        ("start", PAUSED, PAUSED, 4),
        ("pause", STOPPED, STOPPED, 4),
        ("pause", RUNNING, PAUSED, None),
        ("pause", PAUSED, PAUSED, 4),
        ("resume", STOPPED, STOPPED, 4),
        ("resume", RUNNING, RUNNING, 4),
        ("resume", PAUSED, RUNNING, None),
        ("stop", STOPPED, STOPPED, 4),
        ("stop", RUNNING, STOPPED, None),
        ("stop", PAUSED, STOPPED, None),
        ("save", STOPPED, STOPPED, 3),
        ("save", RUNNING, RUNNING, 3),
        ("save", PAUSED, PAUSED, None),
        ("restore", RUNNING, RUNNING, 4),
        ("restore", PAUSED, PAUSED, 4),
        ("restore", STOPPED, STOPPED, 12),  # no such file
    ],
)
def test_state_table(workshop, operation, state, after, code):
    vm = workshop.machine(workshop.linux())
    _reach(workshop, vm, state)
    error = _perform(workshop, vm, operation)
    assert (None if error is None else error.code()) == code
    assert workshop.state(vm) == after


def test_permissions_follow_the_state(workshop):
    vm = workshop.machine(workshop.linux())

    def may():
        names = ("canStart", "canStop", "canPause", "canResume", "canRequestStop")
        return [name for name in names if workshop.on_queue(lambda name=name: getattr(vm, name)())]

    assert may() == ["canStart"]
    workshop.start(vm)
    assert may() == ["canStop", "canPause", "canRequestStop"]
    _perform(workshop, vm, "pause")
    assert may() == ["canStop", "canResume"]


def test_state_between_is_seen(workshop, mac_host):
    mac_host.configure(operation_delay_s=0.05)
    vm = workshop.machine(workshop.linux())
    done = threading.Event()

    def handler(error):
        done.set()

    def begin():
        vm.startWithCompletionHandler_(handler)
        return vm.state()

    assert workshop.on_queue(begin) == STARTING
    assert done.wait(WAIT_S)
    assert workshop.state(vm) == RUNNING


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_error_at_every_operation(workshop, mac_host, operation):
    vm = workshop.machine(workshop.linux())
    state = {"pause": RUNNING, "stop": RUNNING, "resume": PAUSED, "save": PAUSED}.get(operation, STOPPED)
    _reach(workshop, vm, state)
    below = {"domain": "NSPOSIXErrorDomain", "code": 5}
    for code in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 10001, 10007, 20001, 30001, -9):
        mac_host.fail(operation, code=code, text="Planned.", reason="By a test.", underlying=below)
        error = _perform(workshop, vm, operation)
        assert (error.domain(), error.code(), error.localizedDescription()) == ("VZErrorDomain", code, "Planned.")
        assert error.localizedFailureReason() == "By a test."
        assert error.userInfo().get("NSUnderlyingError").code() == 5
        assert workshop.state(vm) == (ERROR if (operation, code) == ("start", 1) else state)
    assert mac_host.pending_faults() == []
    assert len(mac_host.running()) == (0 if state == STOPPED else 1), "a failed operation leaves nothing behind"


def test_error_at_request_stop_and_refusal_by_state(workshop, mac_host):
    vm = workshop.machine(workshop.linux())
    asked, error = workshop.on_queue(lambda: vm.requestStopWithError_(None))
    assert (asked, error.code()) == (False, 4)
    workshop.start(vm)
    mac_host.fail("request-stop", code=1)
    asked, error = workshop.on_queue(lambda: vm.requestStopWithError_(None))
    assert (asked, error.code()) == (False, 1)
    asked, error = workshop.on_queue(lambda: vm.requestStopWithError_(None))
    assert (asked, error) == (True, None)
    workshop.settle()
    assert workshop.state(vm) == STOPPED


def test_guest_that_ignores_requests(workshop, mac_host):
    vm = workshop.machine(workshop.linux())
    workshop.start(vm)
    mac_host.tell(MAC, "ignore-requests")
    asked, _ = workshop.on_queue(lambda: vm.requestStopWithError_(None))
    assert asked
    workshop.settle()
    assert workshop.state(vm) == RUNNING


def test_completion_that_never_comes(workshop, mac_host):
    mac_host.fail("stop", never=True)
    vm = workshop.machine(workshop.linux())
    workshop.start(vm)
    called = threading.Event()

    def handler(error):
        called.set()

    workshop.on_queue(lambda: vm.stopWithCompletionHandler_(handler))
    assert not called.wait(0.1)
    assert workshop.state(vm) == STOPPING


def test_delay(workshop, mac_host):
    mac_host.fail("start", delay_s=0.2)
    vm = workshop.machine(workshop.linux())
    began = time.monotonic()
    assert workshop.start(vm) is None
    assert time.monotonic() - began >= 0.2


def test_times_and_skip(workshop, mac_host):
    mac_host.fail("pause", code=1, skip=1, times=2)
    vm = workshop.machine(workshop.linux())
    workshop.start(vm)
    codes = []
    for _ in range(4):
        error = _perform(workshop, vm, "pause")
        codes.append(None if error is None else error.code())
        if error is None:
            _perform(workshop, vm, "resume")
    assert codes == [None, 1, 1, None]


def test_fault_for_another_machine(workshop, mac_host):
    mac_host.fail("start", code=6, mac="02:00:00:00:00:99")
    assert workshop.start(workshop.machine(workshop.linux())) is None
    assert len(mac_host.pending_faults()) == 1


def test_fault_at_a_call_with_an_error_slot(workshop, mac_host):
    mac_host.fail("validateWithError:", code=2, text="No.")
    valid, error = workshop.linux().validateWithError_(None)
    assert (valid, error.code(), error.localizedDescription()) == (False, 2, "No.")
    valid, error = workshop.linux().validateWithError_(None)
    assert (valid, error) == (True, None)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("operation", ["start", "stop"])
def test_guest_that_stops_around_a_completion(workshop, mac_host, delegate_class, operation, when):
    vm = workshop.machine(workshop.linux())
    delegate = delegate_class.alloc().init()
    workshop.on_queue(lambda: vm.setDelegate_(delegate))
    mac_host.fail(operation, event="guest-stopped", event_when=when, delay_s=0.05)
    order = delegate.recorder

    def handler(error):
        order.hear("completed")

    if operation == "stop":
        workshop.start(vm)
    workshop.on_queue(lambda: getattr(vm, f"{operation}WithCompletionHandler_")(handler))
    if (operation, when) == ("stop", "after"):
        assert order.wait_for(1) == ["completed"]  # a stopped guest does not stop again
    else:
        assert order.wait_for(2) == (["stopped", "completed"] if when == "before" else ["completed", "stopped"])
    workshop.settle()
    assert workshop.state(vm) == STOPPED


def test_error_that_ends_the_guest_during_an_operation(workshop, mac_host, delegate_class):
    vm = workshop.machine(workshop.linux())
    delegate = delegate_class.alloc().init()
    workshop.on_queue(lambda: vm.setDelegate_(delegate))
    workshop.start(vm)
    mac_host.fail("pause", event="stopped-with-error", event_code=1, delay_s=0.05)
    error = _perform(workshop, vm, "pause")
    assert error.code() == 3
    assert delegate.recorder.heard == [("error", 1)]
    assert workshop.state(vm) == ERROR


def test_save_and_restore(workshop):
    first = workshop.machine(workshop.linux())
    _reach(workshop, first, PAUSED)
    assert _perform(workshop, first, "save") is None
    assert workshop.state(first) == PAUSED
    _perform(workshop, first, "stop")
    second = workshop.machine(workshop.linux())
    platform_differs = workshop.linux()
    platform_differs.setCPUCount_(3)
    third = workshop.machine(platform_differs)
    assert _perform(workshop, third, "restore").code() == 12
    assert workshop.state(third) == STOPPED
    assert _perform(workshop, second, "restore") is None
    assert workshop.state(second) == PAUSED
    assert _perform(workshop, second, "resume") is None


def test_damaged_state_file(workshop):
    (workshop.directory / "state").write_text("nothing of ours")
    vm = workshop.machine(workshop.linux())
    assert _perform(workshop, vm, "restore").code() == 12
    assert workshop.state(vm) == STOPPED


def test_operations_are_logged(workshop, mac_host):
    vm = workshop.machine(workshop.linux())
    workshop.start(vm)
    mac_host.fail("stop", code=1)
    _perform(workshop, vm, "stop")
    told = [(line["mac"], line["operation"], line["error"]) for line in mac_host.calls()]
    assert told == [(MAC, "start", None), (MAC, "stop", ["VZErrorDomain", 1])]


def test_start_options(workshop, mac_host):
    vm = workshop.machine(workshop.macos())
    options = workshop.vz.VZMacOSVirtualMachineStartOptions.alloc().init()
    options.setStartUpFromMacOSRecovery_(True)
    error = workshop.perform(lambda handler: vm.startWithOptions_completionHandler_(options, handler))
    assert error is None
    assert mac_host.guest(MAC)["boot"]["recovery"] is True
    assert json.loads(mac_host.running()[0].read_text())["kind"] == "macos"
