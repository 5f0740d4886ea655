import hashlib
import io
import tarfile

import pytest

from tools.sdk_metadata.published_tests import facts
from tools.sdk_metadata.sources import Archive, Source, SourceError

TEST = """
from PyObjCTools.TestSupport import TestCase, min_os_level, arch_only
import Virtualization

class Helper(Virtualization.NSObject):
    def listener_(self, listener):
        return 1

class TestMachine(TestCase):
    def test_constants(self):
        self.assertIsEnumType(Virtualization.VZState)
        self.assertEqual(Virtualization.VZStateOn, 1)
        self.assertEqual(Virtualization.VZOption, 1 << 4)

    @arch_only("arm64")
    @min_os_level("13.0")
    def test_methods13_0(self):
        self.assertArgIsBlock(Virtualization.VZMachine.start_completion_, 1, b"v@")
        self.assertArgIsOut(Virtualization.VZMachine.check_, 0)
        self.assertResultIsBOOL(Virtualization.VZMachine.check_)
        self.assertResultIsBOOL(Helper.listener_)
        self.assertProtocolExists("VZDelegate")
        self.assertCallableMetadataIsSane(Virtualization)
"""


def archive(text: str) -> Archive:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as packed:
        member = tarfile.TarInfo("pyobjc_double-1.0/PyObjCTest/test_machine.py")
        member.size = len(text.encode())
        packed.addfile(member, io.BytesIO(text.encode()))
    data = buffer.getvalue()
    return Archive(Source("pyobjc-double", "1.0", hashlib.sha256(data).hexdigest()), data)


def test_every_assertion_becomes_a_fact():
    found = list(facts(archive(TEST))["facts"].values())
    always = {"introduced": None, "arm64_only": False}
    since_13 = {"introduced": "13.0", "arm64_only": True}
    machine = since_13 | {"class": "VZMachine", "encoding": None}
    expected = [
        always | {"kind": "enumeration", "name": "VZState"},
        always | {"kind": "constant", "name": "VZStateOn", "value": 1},
        always | {"kind": "constant", "name": "VZOption", "value": 16},
        machine | {"kind": "argument-is-block", "method": "start_completion_", "position": 1, "encoding": "v@"},
        machine | {"kind": "argument-is-out", "method": "check_", "position": 0},
        machine | {"kind": "result-is-bool", "method": "check_", "position": None},
        since_13 | {"kind": "protocol", "name": "VZDelegate"},
    ]
    assert [fact for fact in expected if fact not in found] == []
    assert len(found) == len(expected)


def test_assertion_that_is_not_understood_stops_the_tool():
    changed = TEST.replace("assertIsEnumType", "assertIsOptionSet")
    with pytest.raises(SourceError, match="assertIsOptionSet"):
        facts(archive(changed))
