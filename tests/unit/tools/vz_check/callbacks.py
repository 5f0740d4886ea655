"""Breaches in what the frameworks call back, in Objective-C classes and in what surrounds them."""

from tests.unit.tools.vz_check.case import Case

DELEGATE = """
PROTOCOLS = [objc.protocolNamed("VZVirtualMachineDelegate")]

class ProductDelegate(F.NSObject, protocols=PROTOCOLS):
    pass
"""

CASES = [
    Case(
        "off-queue",
        "async def f(cfg: Any, run: Any):\n"
        "    vm = V.VZVirtualMachine.alloc().initWithConfiguration_(cfg)\n"
        "    return vm.canStart()  # BREACH",
        "async def f(cfg: Any, run: Any):\n"
        "    vm = V.VZVirtualMachine.alloc().initWithConfiguration_(cfg)\n"
        "    return await run(lambda: vm.canStart())",
    ),
    Case(
        "handler-none",
        "def f(vm: Any):\n    vm.startWithCompletionHandler_(None)  # BREACH",
        "def f(vm: Any):\n    def done(error):\n        pass\n    vm.startWithCompletionHandler_(done)",
    ),
    Case(
        "handler-lambda",
        "def f(vm: Any, q: Any):\n    vm.startWithCompletionHandler_(lambda error: q.put_nowait(error))  # BREACH",
        "def f(vm: Any, q: Any):\n"
        "    def done(error):\n"
        "        try:\n            q.put_nowait(error)\n"
        "        except BaseException:\n            return\n"
        "    vm.startWithCompletionHandler_(done)",
    ),
    Case(
        "handler-partial",
        "def f(vm: Any, g: Any):\n    vm.startWithCompletionHandler_(functools.partial(g, 1))  # BREACH",
        "def g(error):\n    pass\n\ndef f(vm: Any):\n    vm.startWithCompletionHandler_(g)",
    ),
    Case(
        "handler-c-method",
        "def f(vm: Any):\n    done = queue.SimpleQueue()\n    vm.startWithCompletionHandler_(done.put)  # BREACH",
        "class Start:\n"
        "    def done(self, error):\n        pass\n\n"
        "    def run(self, vm: Any):\n        vm.startWithCompletionHandler_(self.done)",
    ),
    Case(
        "handler-async",
        "def f(vm: Any):\n    async def done(error):\n        pass\n    vm.startWithCompletionHandler_(done)  # BREACH",
        "def f(vm: Any):\n    def done(error):\n        pass\n    vm.startWithCompletionHandler_(done)",
    ),
    Case(
        "handler-arity",
        "def f(device: Any):\n    def done(error):\n        pass\n"
        "    device.connectToPort_completionHandler_(1, done)  # BREACH",
        "def f(device: Any):\n"
        "    def done(connection, error):\n        pass\n"
        "    device.connectToPort_completionHandler_(1, done)",
    ),
    Case(
        "handler-arity",
        "def f(q: Any):\n    def work(q=q):\n        pass\n    D.dispatch_async(q, work)  # BREACH",
        "def f(q: Any):\n    def work():\n        pass\n    D.dispatch_async(q, work)",
        "of a dispatch block",
    ),
    Case(
        "handler-returns",
        "def f(vm: Any):\n    def done(error):\n        return True  # BREACH\n"
        "    vm.startWithCompletionHandler_(done)",
        "def f(vm: Any):\n    def done(error):\n        return\n    vm.startWithCompletionHandler_(done)",
    ),
    Case(
        "handler-raises",
        "def f(vm: Any, g: Any):\n    def done(error):  # BREACH\n        g(error)\n"
        "    vm.startWithCompletionHandler_(done)",
        "def f(vm: Any, g: Any):\n"
        "    def done(error):\n        post(g, error)\n"
        "    vm.startWithCompletionHandler_(done)\n\n"
        'def post(function: Any, error: Any):\n    """Never raises."""\n    function(error)',
    ),
    Case(
        "handler-raises",
        "def f(vm: Any, g: Any):\n"
        "    def done(error):  # BREACH\n"
        "        try:\n            g(error)\n"
        "        except Exception:\n            return\n"
        "    vm.startWithCompletionHandler_(done)",
        "def f(vm: Any, g: Any):\n"
        "    def done(error):\n"
        "        try:\n            g(error)\n"
        "        except BaseException:\n            return\n"
        "    vm.startWithCompletionHandler_(done)",
        "Exception is not all",
    ),
    Case(
        "callback-blocks",
        "def f(vm: Any):\n"
        "    def done(error):\n"
        "        try:\n            time.sleep(1)  # BREACH\n"
        "        except BaseException:\n            return\n"
        "    vm.startWithCompletionHandler_(done)",
        "def f(vm: Any, loop: Any, g: Any):\n"
        "    def done(error):\n"
        "        try:\n            loop.call_soon_threadsafe(g, error)\n"
        "        except BaseException:\n            return\n"
        "    vm.startWithCompletionHandler_(done)",
    ),
    Case(
        "delegate-method",
        DELEGATE.replace("pass", "def guestDidStop_(self, vm):  # BREACH\n        pass"),
        DELEGATE.replace("pass", "def guestDidStopVirtualMachine_(self, vm):\n        pass"),
    ),
    Case(
        "delegate-method",
        DELEGATE.replace("pass", "def tell(self, vm):  # BREACH\n        pass"),
        DELEGATE.replace("pass", "@objc.python_method\n    def tell(self, vm):\n        pass"),
        "plain helper",
    ),
    Case(
        "delegate-arity",
        DELEGATE.replace("pass", "def virtualMachine_didStopWithError_(self, vm):  # BREACH\n        pass"),
        DELEGATE.replace("pass", "def virtualMachine_didStopWithError_(self, vm, error):\n        pass"),
    ),
    Case(
        "handler-raises",
        DELEGATE.replace("pass", "def guestDidStopVirtualMachine_(self, vm):  # BREACH\n        self.tell(vm.state())"),
        DELEGATE.replace(
            "pass",
            "@guarded\n    def guestDidStopVirtualMachine_(self, vm):\n        self.tell(vm.state())",
        ).replace(
            "\nclass",
            "\ndef guarded(method):\n    def run(self, *arguments):\n        try:\n"
            "            method(self, *arguments)\n"
            "        except BaseException:\n            return\n    return run\n\nclass",
        ),
        "in a delegate",
    ),
    Case(
        "delegate-temporary",
        DELEGATE + "\ndef f(vm: Any):\n    vm.setDelegate_(ProductDelegate.alloc().init())  # BREACH",
        DELEGATE
        + "\nclass Machine:\n    def f(self, vm: Any):\n        self.delegate = ProductDelegate.alloc().init()\n"
        "        vm.setDelegate_(self.delegate)",
    ),
    Case(
        "delegate-temporary",
        DELEGATE + "\ndef f(vm: Any):\n    d = ProductDelegate.alloc().init()\n    vm.setDelegate_(d)  # BREACH",
        DELEGATE + "\ndef f(vm: Any):\n    d = ProductDelegate.alloc().init()\n    vm.setDelegate_(d)\n    return d",
        "local",
    ),
    Case(
        "protocol-unknown",
        'objc.protocolNamed("VZMachineDelegate")  # BREACH',
        'objc.protocolNamed("VZVirtualMachineDelegate")',
    ),
    Case(
        "class-in-function",
        "def f():\n    class ProductThing(F.NSObject):  # BREACH\n        pass\n    return ProductThing",
        "@functools.cache\ndef f():\n    class ProductThing(F.NSObject):\n        pass\n    return ProductThing",
    ),
    Case(
        "class-redefined",
        "@functools.cache\ndef f():\n    class ProductThing(F.NSObject):\n        pass\n    return ProductThing\n\n"
        "class ProductThing(F.NSObject):  # BREACH\n    pass",
        "@functools.cache\ndef f():\n    class ProductThing(F.NSObject):\n        pass\n    return ProductThing\n\n"
        "class OtherThing(F.NSObject):\n    pass",
    ),
    Case(
        "python-super",
        DELEGATE.replace("pass", "def init(self):\n        return super().init()  # BREACH"),
        DELEGATE.replace("pass", "def init(self):\n        return objc.super(ProductDelegate, self).init()"),
    ),
    Case(
        "objc-init",
        DELEGATE.replace("pass", "def __init__(self):  # BREACH\n        self.x = 1"),
        DELEGATE.replace("pass", "def init(self):\n        return self"),
    ),
    Case("framework-import", "import Virtualization  # BREACH", "import vzlog"),
    Case("framework-import", "from Foundation import NSURL  # BREACH", "from product.apple import frameworks", "from"),
    Case("fork-after-objc", "os.fork()  # BREACH", 'subprocess.run(["true"], check=True)'),
]
