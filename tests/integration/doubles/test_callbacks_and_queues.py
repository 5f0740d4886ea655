"""Hazards of callbacks and dispatch queues: what a Mac answers with an abort, the double records as one."""

import functools
import queue
import subprocess
import sys
import threading
import time

import pytest

from tests.integration.doubles.conftest import WAIT_S


def test_arity_of_a_handler_is_checked_when_it_is_passed(workshop):
    vm = workshop.machine(workshop.linux())

    def refused(handler, error_class):
        with pytest.raises(error_class):
            workshop.on_queue(lambda: vm.startWithCompletionHandler_(handler))

    bad_prototype = workshop.objc.BadPrototypeError
    refused(lambda: None, bad_prototype)
    refused(lambda error, more: None, bad_prototype)
    refused(lambda error, **more: None, bad_prototype)
    refused(threading.Event().set, bad_prototype)
    refused(queue.SimpleQueue().put, TypeError)
    refused([].append, TypeError)
    refused(functools.partial(print, "x"), TypeError)
    assert workshop.state(vm) == 0


def test_handlers_that_fit(workshop):
    vm = workshop.machine(workshop.linux())
    done = threading.Event()

    class Waiting:
        def handle(self, error):
            done.set()

    workshop.on_queue(lambda: vm.startWithCompletionHandler_(Waiting().handle))
    assert done.wait(WAIT_S)
    done.clear()

    def any_number(*_):
        done.set()

    workshop.on_queue(lambda: vm.stopWithCompletionHandler_(any_number))
    assert done.wait(WAIT_S)


def test_nil_handler(workshop, mac_host):
    vm = workshop.machine(workshop.linux())
    with pytest.raises(BaseException, match="must not be nil"):
        workshop.on_queue(lambda: vm.startWithCompletionHandler_(None))
    mac_host.expect_aborts("nil-block")


def test_exception_in_a_handler(workshop, mac_host):
    vm = workshop.machine(workshop.linux())
    reached = threading.Event()

    def handler(error):
        reached.set()
        raise RuntimeError("boom")

    workshop.on_queue(lambda: vm.startWithCompletionHandler_(handler))
    assert reached.wait(WAIT_S)
    workshop.settle()
    (line,) = mac_host.expect_aborts("callback-exception")
    assert "boom" in line["text"]
    assert "handler" in line["where"]


def test_result_of_a_handler(workshop, mac_host):
    vm = workshop.machine(workshop.linux())
    workshop.on_queue(lambda: vm.startWithCompletionHandler_(lambda error: "ignored?"))
    workshop.settle()
    mac_host.expect_aborts("callback-result")

    async def handler(error):
        pass

    workshop.on_queue(lambda: vm.stopWithCompletionHandler_(handler))
    workshop.settle()
    mac_host.expect_aborts("callback-result")


def test_completion_is_never_inside_the_call(workshop):
    vm = workshop.machine(workshop.linux())
    order = []
    done = threading.Event()

    def handler(error):
        order.append("completed")
        done.set()

    def call():
        vm.startWithCompletionHandler_(handler)
        order.append("returned")
        time.sleep(0.05)  # the completion is due by now, and has to wait for this block

    workshop.on_queue(call)
    assert done.wait(WAIT_S)
    assert order == ["returned", "completed"]


def test_members_outside_the_queue(workshop, mac_host):
    vm = workshop.machine(workshop.linux())
    for member in ("state", "canStart", "networkDevices"):
        with pytest.raises(BaseException, match="was called outside"):
            getattr(vm, member)()
    with pytest.raises(BaseException, match="was called outside"):
        vm.startWithCompletionHandler_(lambda error: None)
    mac_host.expect_aborts(*["wrong-queue"] * 4)


def test_devices_outside_the_queue(workshop, mac_host):
    configuration = workshop.linux()
    configuration.setMemoryBalloonDevices_([workshop.vz.VZVirtioTraditionalMemoryBalloonDeviceConfiguration.new()])
    vm = workshop.machine(configuration)
    balloon = workshop.on_queue(lambda: vm.memoryBalloonDevices()[0])
    with pytest.raises(BaseException, match="was called outside"):
        balloon.setTargetVirtualMachineMemorySize_(1 << 29)
    mac_host.expect_aborts("wrong-queue")


def test_another_queue_is_not_the_queue(workshop, mac_host):
    vm = workshop.machine(workshop.linux())
    other = workshop.dispatch.dispatch_queue_create(b"other", None)
    seen: queue.SimpleQueue[BaseException] = queue.SimpleQueue()

    def work():
        try:
            vm.state()
        except BaseException as exc:  # noqa: BLE001
            seen.put(exc)

    workshop.dispatch.dispatch_async(other, work)
    assert "wrong-queue" in str(seen.get(timeout=WAIT_S))
    mac_host.expect_aborts("wrong-queue")


def test_concurrent_queue(workshop, mac_host):
    concurrent = workshop.dispatch.dispatch_queue_create(b"c", workshop.dispatch.DISPATCH_QUEUE_CONCURRENT)
    with pytest.raises(BaseException, match="serial queue"):
        workshop.vz.VZVirtualMachine.alloc().initWithConfiguration_queue_(workshop.linux(), concurrent)
    mac_host.expect_aborts("concurrent-queue")


def test_dispatch_sync_from_the_queue_to_itself(workshop, mac_host):
    with pytest.raises(BaseException, match="deadlock"):
        workshop.on_queue(lambda: workshop.dispatch.dispatch_sync(workshop.queue, lambda: None))
    mac_host.expect_aborts("deadlock")


def test_dispatch_sync_from_elsewhere(workshop):
    ran = []

    def work():
        ran.append(threading.current_thread())

    workshop.dispatch.dispatch_sync(workshop.queue, work)
    assert ran
    assert ran[0] is not threading.current_thread()


def test_queue_label_is_bytes(workshop):
    with pytest.raises(ValueError, match="bytes"):
        workshop.dispatch.dispatch_queue_create("vm", None)


def test_main_queue_runs_only_with_a_run_loop(workshop):
    vm = workshop.vz.VZVirtualMachine.alloc().initWithConfiguration_(workshop.linux())
    completed = []

    def handler(error):
        completed.append(error)

    vm.startWithCompletionHandler_(handler)  # the main thread is on the main queue
    time.sleep(0.05)
    assert completed == []
    foundation = workshop.foundation
    deadline = time.monotonic() + WAIT_S
    while not completed and time.monotonic() < deadline:
        until = foundation.NSDate.dateWithTimeIntervalSinceNow_(0.01)
        foundation.NSRunLoop.currentRunLoop().runUntilDate_(until)
    assert completed == [None]


_PROGRAM = """
import sys, threading
import Foundation, Virtualization as V, dispatch
queue = dispatch.dispatch_queue_create(b"vm", None)
def work():
    {body}
dispatch.dispatch_async(queue, work)
threading.Event().wait({wait})
"""


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("raise ValueError('escaped')", "callback-exception"),
        ("return 1", "callback-result"),
        ("dispatch.dispatch_sync(queue, lambda: None)", "deadlock"),
    ],
)
def test_a_process_really_aborts(mac_host, body, kind):
    program = _PROGRAM.format(body=body, wait=10)
    ended = subprocess.run(
        [sys.executable, "-c", program], env=mac_host.environment(), capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == -6, ended.stderr
    (line,) = mac_host.expect_aborts(kind)
    assert line["text"] in ended.stderr


_EXITING = """
import threading
import Foundation as F, Virtualization as V, dispatch
queue = dispatch.dispatch_queue_create(b"vm", None)
configuration = V.VZVirtualMachineConfiguration.alloc().init()
configuration.setBootLoader_(V.VZLinuxBootLoader.alloc().initWithKernelURL_(F.NSURL.fileURLWithPath_({kernel!r})))
vm = V.VZVirtualMachine.alloc().initWithConfiguration_queue_(configuration, queue)
def busy():
    threading.Event().wait(3)
dispatch.dispatch_async(queue, busy)
"""


def test_interpreter_that_ends_with_callbacks_pending(mac_host, tmp_path):
    (tmp_path / "kernel").touch()
    program = _EXITING.format(kernel=str(tmp_path / "kernel"))
    ended = subprocess.run(
        [sys.executable, "-c", program], env=mac_host.environment(), capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == -6, ended.stderr
    mac_host.expect_aborts("undefined")


def test_fork_after_objective_c_was_loaded(mac_host):
    program = "import objc, os, subprocess\nsubprocess.run(['true'], check=True)\nprint('alive', flush=True)\nos.fork()"
    ended = subprocess.run(
        [sys.executable, "-c", program], env=mac_host.environment(), capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stdout) == (-6, "alive\n"), ended.stderr
    mac_host.expect_aborts("fork")
