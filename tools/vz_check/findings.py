"""What the checker reports, and the rules it knows."""

from __future__ import annotations

from dataclasses import dataclass

RULES = {
    "argument-count": "a selector takes exactly as many arguments as it has colons, an error parameter included",
    "arm64-unguarded": "a class or selector that Intel Macs lack needs a check of `host.is_apple_silicon`",
    "array-mutated": "an array that a framework returned is immutable; make a new list and set it",
    "bare-number": "an enum takes its named constant, never a number",
    "callback-blocks": "a callback holds the machine's queue; it hands its result over and returns",
    "class-in-function": "an Objective-C class name exists once per process; define it at module level or cached",
    "class-redefined": "two Objective-C classes of one name are refused by the runtime",
    "class-versus-instance": "a class method is called on the class, an instance method on an instance",
    "delegate-arity": "a delegate method has one parameter for each colon, after self",
    "delegate-method": "a delegate method that the protocol does not know is never called",
    "delegate-temporary": "delegates are weak; one that nobody keeps is gone before its first call",
    "deprecated-selector": "a deprecated selector has a successor",
    "dispatch-sync": "dispatch_sync deadlocks on the machine's own queue",
    "enum-mismatch": "a constant of another enum has another meaning",
    "error-argument": "an error parameter is passed as None",
    "error-only": "the first element decides whether a call worked, never the error",
    "error-unpacked": "a call with an error parameter returns a tuple, which has to be unpacked",
    "fork-after-objc": "a process that loaded Objective-C must not fork",
    "framework-import": "only `apple` imports the frameworks",
    "handler-arity": "a block's function takes exactly the block's arguments",
    "handler-async": "a coroutine function returns a coroutine, and a void block must return None",
    "handler-c-method": "PyObjC cannot see the signature of a method written in C",
    "handler-lambda": "a lambda returns its expression, and a void block must return None",
    "handler-none": "a completion handler is not optional",
    "handler-partial": "PyObjC cannot see the signature of functools.partial",
    "handler-raises": "an exception that leaves a callback aborts the process",
    "handler-returns": "a void block must return None, or the process aborts",
    "keyword-constructor": "keyword constructors depend on the order of the keywords; use alloc().initWith…",
    "nil-for-nonnull": "a parameter that is not nullable got None",
    "number-conversion": "PyObjC truncates floats and wraps negative numbers silently",
    "objc-init": "Objective-C never calls `__init__`",
    "off-queue": "a virtual machine, its devices and its installer belong to the machine's queue",
    "property-assigned": "Objective-C properties are set by their setter",
    "property-not-called": "a getter that is not called is a selector object, which is true and equals nothing",
    "protocol-unknown": "an unknown protocol is None at run time",
    "python-super": "Python's super() does not find Objective-C methods",
    "queue-concurrent": "a virtual machine needs a serial queue",
    "queue-label": "the label of a dispatch queue is bytes",
    "text-for-url": "an NSURL parameter takes an NSURL; text is stored and fails later",
    "truth-of-tuple": "a tuple is always true",
    "unavailable-init": "PyObjC refuses `init` on this class as NS_UNAVAILABLE",
    "unavailable-new": "this class has no instances of its own",
    "unguarded-version": "a call newer than the deployment target stands behind a MacOS(…) guard",
    "unknown-class": "the frameworks have no such class",
    "unknown-constant": "the frameworks have no such constant",
    "unknown-function": "libdispatch has no such function",
    "unknown-selector": "the class has no such selector",
    "url-as-text": "str() of an NSURL is not its path",
    "wrong-object": "PyObjC does not check object arguments; a wrong class fails late or crashes",
}
"""Identifier -> why it matters."""


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    path: str
    line: int
    rule: str
    text: str
    instead: str = ""

    def __str__(self) -> str:
        advice = f"; write {self.instead}" if self.instead else ""
        return f"{self.path}:{self.line}: {self.rule}: {self.text}{advice}"
