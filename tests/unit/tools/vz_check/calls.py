"""Breaches in what is called, with what and where."""

from tests.unit.tools.vz_check.case import Case

VALIDATE = "def f():\n    cfg = V.VZVirtualMachineConfiguration.alloc().init()\n"

CASES = [
    Case("unknown-class", "V.VZVirtualMaschine.isSupported()  # BREACH", "V.VZVirtualMachine.isSupported()"),
    Case(
        "unknown-class",
        'getattr(V, "VZVmnetAttachment")  # BREACH',
        'getattr(V, "VZNATNetworkDeviceAttachment")',
        "by text",
    ),
    Case("unknown-constant", "x = V.VZErrorTooManyMachines  # BREACH", "x = V.VZErrorVirtualMachineLimitExceeded"),
    Case(
        "unknown-constant",
        "def f(code: Any):\n    match code:\n        case V.VZErrorTooMany:  # BREACH\n            return 1",
        "def f(code: Any):\n    match code:\n        case V.VZErrorSave:\n            return 1",
        "in a pattern",
    ),
    Case("unknown-function", "D.dispatch_queue_make()  # BREACH", 'D.dispatch_queue_create(b"a", None)'),
    Case(
        "unknown-selector",
        "c = make(V.VZVirtioConsoleDeviceConfiguration)\nc.setPorts_([])  # BREACH",
        "c = make(V.VZVirtioConsoleDeviceConfiguration)\n"
        "p = make(V.VZVirtioConsolePortConfiguration)\n"
        "c.ports().setObject_atIndexedSubscript_(p, 0)",
        "of a known class",
    ),
    Case(
        "unknown-selector",
        "def f(vm: Any):\n    vm.startWithHandler_(1)  # BREACH",
        "def f(vm: Any, handler: Any):\n    vm.startWithCompletionHandler_(handler)",
        "of an unknown object",
    ),
    Case(
        "unknown-selector",
        "def f(u):\n"
        "    a, e = V.VZDiskImageStorageDeviceAttachment.alloc().initWithURL_readOnly_error(u, True, None)  # BREACH\n"
        "    return a",
        "def f(u):\n"
        "    a, e = V.VZDiskImageStorageDeviceAttachment.alloc().initWithURL_readOnly_error_(u, True, None)\n"
        "    return a",
        "last colon forgotten",
    ),
    Case(
        "argument-count",
        VALIDATE + "    ok, error = cfg.validateWithError_()  # BREACH\n    return ok",
        VALIDATE + "    ok, error = cfg.validateWithError_(None)\n    return ok",
    ),
    Case(
        "error-argument",
        VALIDATE + "    error = []\n    ok, e = cfg.validateWithError_(error)  # BREACH\n    return ok",
        VALIDATE + "    ok, e = cfg.validateWithError_(None)\n    return ok",
    ),
    Case(
        "truth-of-tuple",
        VALIDATE + "    if cfg.validateWithError_(None):  # BREACH\n        return 1",
        VALIDATE + "    ok, e = cfg.validateWithError_(None)\n    if ok:\n        return 1",
    ),
    Case(
        "truth-of-tuple",
        VALIDATE + "    result = cfg.validateWithError_(None)\n    assert not result  # BREACH",
        VALIDATE + "    ok, e = cfg.validateWithError_(None)\n    assert ok",
        "through a variable",
    ),
    Case(
        "error-unpacked",
        VALIDATE + "    return cfg.validateWithError_(None)[0]  # BREACH",
        VALIDATE + "    return cfg.validateWithError_(None)",
        "subscript",
    ),
    Case(
        "error-unpacked",
        VALIDATE + "    cfg.validateWithError_(None)  # BREACH",
        VALIDATE + "    ok, e = cfg.validateWithError_(None)\n    return ok",
        "ignored",
    ),
    Case(
        "error-unpacked",
        "def f(u):\n    V.VZFileSerialPortAttachment.alloc().initWithURL_append_error_(u, True, None).URL()  # BREACH",
        "def f(u):\n"
        "    a, e = V.VZFileSerialPortAttachment.alloc().initWithURL_append_error_(u, True, None)\n"
        "    return a.URL()",
        "used as the object",
    ),
    Case(
        "error-only",
        VALIDATE
        + "    ok, error = cfg.validateWithError_(None)  # BREACH\n    if error is not None:\n        raise OSError",
        VALIDATE + "    ok, error = cfg.validateWithError_(None)\n    if not ok:\n        raise OSError(error)",
    ),
    Case(
        "unavailable-init",
        "V.VZMacPlatformConfiguration.alloc().init()  # BREACH",
        "V.VZMacPlatformConfiguration.new()",
    ),
    Case("unavailable-init", "V.VZEFIBootLoader()  # BREACH", "make(V.VZEFIBootLoader)", "called"),
    Case("unavailable-new", "make(V.VZBootLoader)  # BREACH", "make(V.VZMacOSBootLoader)"),
    Case(
        "unavailable-new",
        "def f(cfg):\n    return V.VZVirtualMachine.alloc().init()  # BREACH",
        "def f(cfg):\n    return V.VZVirtualMachine.alloc().initWithConfiguration_(cfg)",
        "by init",
    ),
    Case(
        "keyword-constructor",
        "def f(u):\n    return V.VZLinuxBootLoader(kernelURL=u)  # BREACH",
        "def f(u):\n    return V.VZLinuxBootLoader.alloc().initWithKernelURL_(u)",
    ),
    Case(
        "class-versus-instance",
        "def f(vm_configuration):\n"
        "    vm = V.VZVirtualMachine.alloc().initWithConfiguration_(vm_configuration)\n"
        "    return vm.isSupported()  # BREACH",
        "V.VZVirtualMachine.isSupported()",
    ),
    Case(
        "class-versus-instance",
        "V.VZMacHardwareModel.dataRepresentation()  # BREACH",
        "def f(d):\n    return V.VZMacHardwareModel.alloc().initWithDataRepresentation_(d).dataRepresentation()",
        "instance method on the class",
    ),
    Case(
        "unguarded-version",
        "def f(host):\n    return make(V.VZMacKeyboardConfiguration)  # BREACH",
        "def f(host):\n    if host >= MacOS(14):\n        return make(V.VZMacKeyboardConfiguration)\n    return None",
    ),
    Case(
        "unguarded-version",
        "def f(vm: Any, url: Any, handler: Any, host: Any):\n"
        "    if host < MacOS(13):\n        raise OSError\n"
        "    vm.saveMachineStateToURL_completionHandler_(url, handler)  # BREACH",
        "def f(vm: Any, url: Any, handler: Any, host: Any):\n"
        "    if host < MacOS(14):\n        raise OSError\n"
        "    vm.saveMachineStateToURL_completionHandler_(url, handler)",
        "guard for an older version, unknown receiver",
    ),
    Case(
        "unguarded-version",
        "def f(host: Any):\n"
        "    if host >= MacOS(14):\n        pass\n"
        "    return make(V.VZMacKeyboardConfiguration)  # BREACH",
        "NEW = MacOS(14)\n\ndef f(host: Any):\n    return make(V.VZMacKeyboardConfiguration) if host >= NEW else None",
        "behind the guard's end",
    ),
    Case(
        "unguarded-version",
        "def f(host: Any):\n"
        "    if host >= MacOS(26) or host.is_beta:\n"
        "        return V.VZVmnetNetworkDeviceAttachment  # BREACH",
        "def f(host: Any):\n"
        "    if host >= MacOS(26) and host.is_beta:\n"
        "        return V.VZVmnetNetworkDeviceAttachment",
        "or is no guard",
    ),
    Case(
        "deprecated-selector",
        "def f():\n    url = file_url('/a')\n"
        "    return V.VZMacAuxiliaryStorage.alloc().initWithContentsOfURL_(url)  # BREACH",
        "def f():\n    url = file_url('/a')\n    return V.VZMacAuxiliaryStorage.alloc().initWithURL_(url)",
    ),
    Case(
        "property-not-called",
        "def f(cfg: Any):\n"
        "    vm = V.VZVirtualMachine.alloc().initWithConfiguration_(cfg)\n"
        "    return vm.state == V.VZVirtualMachineStateRunning  # BREACH",
        "def f(cfg: Any):\n"
        "    vm = V.VZVirtualMachine.alloc().initWithConfiguration_(cfg)\n"
        "    return vm.state() == V.VZVirtualMachineStateRunning",
    ),
    Case(
        "property-not-called",
        "def f(vm: Any):\n    if vm.canRequestStop:  # BREACH\n        return 1",
        "def f(vm: Any):\n    if vm.canRequestStop():\n        return 1",
        "of an unknown object",
    ),
    Case(
        "property-assigned",
        "cfg = V.VZVirtualMachineConfiguration.alloc().init()\ncfg.CPUCount = 4  # BREACH",
        "cfg = V.VZVirtualMachineConfiguration.alloc().init()\ncfg.setCPUCount_(4)",
    ),
    Case(
        "text-for-url",
        'V.VZMacAuxiliaryStorage.alloc().initWithURL_("/aux.img")  # BREACH',
        'V.VZMacAuxiliaryStorage.alloc().initWithURL_(file_url("/aux.img"))',
    ),
    Case(
        "text-for-url",
        "def f(path: Path):\n    return V.VZSharedDirectory.alloc().initWithURL_readOnly_(path / 'a', True)  # BREACH",
        "def f(path: Path):\n    return V.VZSharedDirectory.alloc().initWithURL_readOnly_(file_url(path / 'a'), True)",
        "a path",
    ),
    Case(
        "wrong-object",
        "def f(cfg: Any):\n    q = F.NSOperationQueue.mainQueue()\n"
        "    V.VZVirtualMachine.alloc().initWithConfiguration_queue_(cfg, q)  # BREACH",
        'def f(cfg: Any):\n    q = D.dispatch_queue_create(b"vm", None)\n'
        "    V.VZVirtualMachine.alloc().initWithConfiguration_queue_(cfg, q)",
        "a foreign queue",
    ),
    Case(
        "wrong-object",
        "cfg = V.VZVirtualMachineConfiguration.alloc().init()\ncfg.setPlatform_(make(V.VZMacOSBootLoader))  # BREACH",
        "cfg = V.VZVirtualMachineConfiguration.alloc().init()\ncfg.setBootLoader_(make(V.VZMacOSBootLoader))",
        "of another class",
    ),
    Case(
        "wrong-object",
        "cfg = V.VZVirtualMachineConfiguration.alloc().init()\n"
        "cfg.setEntropyDevices_(make(V.VZVirtioEntropyDeviceConfiguration))  # BREACH",
        "cfg = V.VZVirtualMachineConfiguration.alloc().init()\n"
        "cfg.setEntropyDevices_([make(V.VZVirtioEntropyDeviceConfiguration)])",
        "no list",
    ),
    Case(
        "wrong-object",
        "cfg = V.VZVirtualMachineConfiguration.alloc().init()\ndevices = [make(V.VZVirtioEntropyDeviceConfiguration)]\n"
        "cfg.setSocketDevices_(devices)  # BREACH",
        "cfg = V.VZVirtualMachineConfiguration.alloc().init()\ndevices = [make(V.VZVirtioSocketDeviceConfiguration)]\n"
        "cfg.setSocketDevices_(devices)",
        "a list of others",
    ),
    Case(
        "nil-for-nonnull",
        "make(V.VZMacPlatformConfiguration).setHardwareModel_(None)  # BREACH",
        "make(V.VZMacPlatformConfiguration).setAuxiliaryStorage_(None)",
    ),
    Case(
        "nil-for-nonnull",
        "V.VZVirtualMachineConfiguration.alloc().init().setKeyboards_([None])  # BREACH",
        "V.VZVirtualMachineConfiguration.alloc().init().setKeyboards_([])",
        "in a list",
    ),
    Case(
        "queue-label",
        'D.dispatch_queue_create("vm", None)  # BREACH',
        'D.dispatch_queue_create(b"vm", None)',
    ),
    Case(
        "queue-label",
        "def f(name: str):\n    return D.dispatch_queue_create(f'vm.{name}', None)  # BREACH",
        "def f(name: str):\n    return D.dispatch_queue_create(f'vm.{name}'.encode(), None)",
        "formatted",
    ),
    Case(
        "queue-concurrent",
        'D.dispatch_queue_create(b"vm", D.DISPATCH_QUEUE_CONCURRENT)  # BREACH',
        'D.dispatch_queue_create(b"vm", D.DISPATCH_QUEUE_SERIAL)',
    ),
    Case(
        "dispatch-sync",
        "def f(q: Any):\n    def work():\n        pass\n    D.dispatch_sync(q, work)  # BREACH",
        "def f(q: Any):\n    def work():\n        pass\n    D.dispatch_async(q, work)",
    ),
    Case(
        "bare-number",
        "def f(u: Any):\n    return V.VZDiskImageStorageDeviceAttachment.alloc()"
        ".initWithURL_readOnly_cachingMode_synchronizationMode_error_("
        "u, True, V.VZDiskImageCachingModeCached, 0, None)  # BREACH",
        "def f(u: Any):\n    return V.VZDiskImageStorageDeviceAttachment.alloc()"
        ".initWithURL_readOnly_cachingMode_synchronizationMode_error_("
        "u, True, V.VZDiskImageCachingModeCached, V.VZDiskImageSynchronizationModeFull, None)",
        "the sync mode has no 0",
    ),
    Case(
        "bare-number",
        "def f(cfg: Any):\n    return V.VZVirtualMachine.alloc().initWithConfiguration_(cfg).state() == 1  # BREACH",
        "def f(cfg: Any):\n    return V.VZVirtualMachine.alloc().initWithConfiguration_(cfg).state() "
        "== V.VZVirtualMachineStateRunning",
        "comparison",
    ),
    Case(
        "enum-mismatch",
        "def f(u: Any):\n    return V.VZDiskImageStorageDeviceAttachment.alloc()"
        ".initWithURL_readOnly_cachingMode_synchronizationMode_error_("
        "u, True, V.VZDiskImageCachingModeCached, V.VZDiskSynchronizationModeFull, None)  # BREACH",
        "def f(u: Any):\n    return V.VZDiskImageStorageDeviceAttachment.alloc()"
        ".initWithURL_readOnly_cachingMode_synchronizationMode_error_("
        "u, True, V.VZDiskImageCachingModeCached, V.VZDiskImageSynchronizationModeFull, None)",
    ),
    Case(
        "number-conversion",
        "def f(n: int):\n    V.VZVirtualMachineConfiguration.alloc().init().setCPUCount_(n / 2)  # BREACH",
        "def f(n: int):\n    V.VZVirtualMachineConfiguration.alloc().init().setCPUCount_(n // 2)",
    ),
    Case(
        "number-conversion",
        "V.VZVirtualMachineConfiguration.alloc().init().setMemorySize_(-1)  # BREACH",
        "V.VZVirtualMachineConfiguration.alloc().init().setMemorySize_(1 << 30)",
        "negative",
    ),
    Case(
        "number-conversion",
        'make(V.VZSpiceAgentPortAttachment).setSharesClipboard_("no")  # BREACH',
        "make(V.VZSpiceAgentPortAttachment).setSharesClipboard_(False)",
        "text for a BOOL",
    ),
    Case(
        "array-mutated",
        "cfg = V.VZVirtualMachineConfiguration.alloc().init()\n"
        "cfg.serialPorts().append(make(V.VZVirtioConsoleDeviceSerialPortConfiguration))  # BREACH",
        "cfg = V.VZVirtualMachineConfiguration.alloc().init()\n"
        "ports = [*cfg.serialPorts(), make(V.VZVirtioConsoleDeviceSerialPortConfiguration)]\n"
        "cfg.setSerialPorts_(ports)",
    ),
    Case("url-as-text", "x = str(file_url('/a'))  # BREACH", "x = file_url('/a').path()"),
]
