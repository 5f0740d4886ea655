"""Hazards of delegates and of classes written in Python."""

import gc
import threading

import pytest

from tests.integration.doubles.conftest import MAC, WAIT_S


def test_delegate_hears_of_the_guest(workshop, mac_host, delegate_class):
    vm = workshop.machine(workshop.linux())
    delegate = delegate_class.alloc().init()
    workshop.on_queue(lambda: vm.setDelegate_(delegate))
    assert workshop.start(vm) is None
    mac_host.tell(MAC, "disconnect 3")
    mac_host.tell(MAC, "power-off")
    assert delegate.recorder.wait_for(4) == [("disconnected", None, 7)] * 3 + ["stopped"]
    assert workshop.state(vm) == 0


def test_crash_of_the_guest(workshop, mac_host, delegate_class):
    vm = workshop.machine(workshop.linux())
    delegate = delegate_class.alloc().init()
    workshop.on_queue(lambda: vm.setDelegate_(delegate))
    workshop.start(vm)
    mac_host.tell(MAC, "crash 1 The guest panicked.")
    assert delegate.recorder.wait_for(1) == [("error", 1)]
    assert workshop.state(vm) == 3
    assert workshop.start(vm) is None, "a VM starts again from the error state"


def test_delegate_is_weak(workshop, mac_host, delegate_class):
    vm = workshop.machine(workshop.linux())
    delegate = delegate_class.alloc().init()
    recorder = delegate.recorder
    workshop.on_queue(lambda: vm.setDelegate_(delegate))
    workshop.start(vm)
    delegate = None
    gc.collect()
    mac_host.tell(MAC, "power-off")
    workshop.settle()
    assert workshop.state(vm) == 0
    assert recorder.heard == []
    assert workshop.on_queue(lambda: vm.delegate()) is None


def test_delegate_that_is_a_python_object(workshop):
    vm = workshop.machine(workshop.linux())
    with pytest.raises(TypeError, match="opaque Python object"):
        workshop.on_queue(lambda: vm.setDelegate_(object()))


def _protocol(workshop):
    return [workshop.objc.protocolNamed("VZVirtualMachineDelegate")]


def test_misspelt_delegate_method(workshop):
    with pytest.raises(TypeError, match="never called"):

        class Misspelt(workshop.foundation.NSObject, protocols=_protocol(workshop)):  # type: ignore[call-arg,misc,name-defined]
            def guestDidStop_(self, vm):
                pass


def test_delegate_method_with_a_wrong_number_of_arguments(workshop):
    with pytest.raises(workshop.objc.BadPrototypeError):

        class Short(workshop.foundation.NSObject, protocols=_protocol(workshop)):  # type: ignore[call-arg,misc,name-defined]
            def virtualMachine_didStopWithError_(self, vm):
                pass


def test_required_method_of_a_protocol(workshop):
    observed = workshop.objc.protocolNamed("NSCopying")
    with pytest.raises(TypeError, match="no implementation for"):

        class Incomplete(workshop.foundation.NSObject, protocols=[observed]):  # type: ignore[call-arg,misc,name-defined]
            pass


def test_class_names_are_global_to_the_process(workshop):
    def make():
        class Twice(workshop.foundation.NSObject):  # type: ignore[misc,name-defined]
            pass

    make()
    with pytest.raises(workshop.objc.error, match="overriding existing Objective-C class"):
        make()


def test_helper_method_needs_a_decorator(workshop):
    with pytest.raises(workshop.objc.BadPrototypeError):

        class Helped(workshop.foundation.NSObject):  # type: ignore[misc,name-defined]
            def _remember(self, word):
                pass

    class Decorated(workshop.foundation.NSObject):  # type: ignore[misc,name-defined]
        @workshop.objc.python_method
        def _remember(self, word):
            return word

        def take_word(self, word):  # an underscore within makes it Python's
            return self._remember(word)

    assert Decorated.alloc().init().take_word("x") == "x"


def test_pythons_own_super(workshop):
    with pytest.warns(Warning, match=r"super is not objc\.super"):

        class Impatient(workshop.foundation.NSObject):  # type: ignore[misc,name-defined]
            def init(self):
                return super().init()


def test_unknown_protocol(workshop):
    with pytest.raises(workshop.objc.error):
        workshop.objc.protocolNamed("VZVirtualMachineDelegat")


def test_exception_and_result_of_a_delegate_method(workshop, mac_host):
    class Faulty(workshop.foundation.NSObject, protocols=_protocol(workshop)):  # type: ignore[call-arg,misc,name-defined]
        def guestDidStopVirtualMachine_(self, vm):
            raise RuntimeError("boom")

        def virtualMachine_didStopWithError_(self, vm, error):
            return 1

    vm = workshop.machine(workshop.linux())
    delegate = Faulty.alloc().init()
    workshop.on_queue(lambda: vm.setDelegate_(delegate))
    workshop.start(vm)
    mac_host.tell(MAC, "power-off")
    workshop.settle()
    mac_host.expect_aborts("callback-exception")
    workshop.start(vm)
    mac_host.tell(MAC, "crash")
    workshop.settle()
    mac_host.expect_aborts("callback-result")


def test_key_value_observing_of_the_state(workshop):
    seen = []
    stopped = threading.Event()

    class Observer(workshop.foundation.NSObject):  # type: ignore[misc,name-defined]
        def observeValueForKeyPath_ofObject_change_context_(self, path, observed, change, context):
            seen.append((path, change["new"]))
            if change["new"] == 0:
                stopped.set()

    vm = workshop.machine(workshop.linux())
    observer = Observer.alloc().init()
    options = workshop.foundation.NSKeyValueObservingOptionNew
    workshop.on_queue(lambda: vm.addObserver_forKeyPath_options_context_(observer, "state", options, None))
    workshop.start(vm)
    workshop.perform(vm.stopWithCompletionHandler_)
    assert stopped.wait(WAIT_S)
    assert seen == [("state", 4), ("state", 1), ("state", 7), ("state", 0)]
    workshop.on_queue(lambda: vm.removeObserver_forKeyPath_(observer, "state"))
