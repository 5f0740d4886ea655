"""Lines between daemon and helper, whatever the chunks and whatever the versions."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzkubelet import errors
from vzkubelet.errors import Exhausted, MachineFault, RemoteProtocolError, Unsupported
from vzkubelet.machines.vz import protocol
from vzkubelet.machines.vz.plan import SharedDirectory
from vzkubelet.machines.vz.protocol import (
    AnyRequest,
    Done,
    Failed,
    Fault,
    FromHelper,
    Hello,
    LineDecoder,
    Message,
    NetworkChanged,
    Request,
    Status,
    StatusReply,
    VMState,
)

REQUESTS: list[Message] = [
    protocol.Start(id=1),
    protocol.RequestStop(id=2),
    protocol.Kill(id=3),
    protocol.Pause(id=4),
    protocol.Resume(id=5),
    protocol.Save(id=6, path="saved.state"),
    protocol.Restore(id=7, path="/elsewhere/é"),
    protocol.SetShare(id=8, tag="data", directories=(SharedDirectory(path="/d", read_only=True, name="n"),)),
    protocol.SetBalloon(id=9, target_bytes=1 << 40),
    protocol.VsockConnect(id=10, port=8080),
    protocol.GetStatus(id=11),
]
STATUS = Status(state=VMState.RUNNING, pid=7, started_at=1.5, network_fault="gone")
ANSWERS: list[Message] = [
    Hello(protocol=1, pid=7, plan_digest="ab", status=STATUS),
    Done(id=1),
    StatusReply(id=2, status=STATUS),
    Failed(id=3, fault=Fault(kind="Conflict", message="no", reason="Conflict")),
    NetworkChanged(fault="gone", at=2.0),
    NetworkChanged(fault="", at=3.0),
]


@given(st.lists(st.integers(0, 2000), max_size=40))
def test_requests_arrive_whole_whatever_the_chunks(cuts: list[int]) -> None:
    data = b"".join(protocol.encode(message) for message in REQUESTS)
    decoder: LineDecoder[Request] = LineDecoder(Request)
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    read = [message for start, end in itertools.pairwise(places) for message in decoder.feed(data[start:end])]
    assert read == REQUESTS


def test_all_that_a_helper_says_is_read_byte_by_byte() -> None:
    decoder: LineDecoder[FromHelper] = LineDecoder(FromHelper)
    data = b"".join(protocol.encode(message) for message in ANSWERS)
    assert [message for byte in data for message in decoder.feed(bytes([byte]))] == ANSWERS


def test_a_request_of_a_newer_daemon_is_recognised_as_unknown() -> None:
    decoder: LineDecoder[Request] = LineDecoder(Request)
    [unknown] = decoder.feed(b'{"type":"attach-usb","id":12,"path":"/x"}\n')
    assert unknown == AnyRequest(id=12, type="attach-usb")


def test_a_field_of_a_newer_daemon_is_ignored() -> None:
    decoder: LineDecoder[Request] = LineDecoder(Request)
    assert decoder.feed(b'{"type":"kill","id":1,"softly":true}\n') == [protocol.Kill(id=1)]


@pytest.mark.parametrize(
    "line", [b"hello\n", b"[]\n", b'{"type":"kill"}\n', b'{"type":"kill","id":"x"}\n', b"\xff\n", b'{"id":1}\n']
)
def test_what_is_no_message_ends_the_connection(line: bytes) -> None:
    decoder: LineDecoder[Request] = LineDecoder(Request)
    with pytest.raises(RemoteProtocolError):
        decoder.feed(line)


def test_a_line_without_end_does_not_fill_the_memory() -> None:
    decoder: LineDecoder[Request] = LineDecoder(Request)
    for _ in range(protocol.MAX_LINE_BYTES // 65536):
        assert decoder.feed(b"x" * 65536) == []
    with pytest.raises(RemoteProtocolError, match="more than"):
        decoder.feed(b"x")


def test_empty_lines_are_no_messages() -> None:
    decoder: LineDecoder[Request] = LineDecoder(Request)
    assert decoder.feed(b"\n \n") == []


@pytest.mark.parametrize(
    "kind", [errors.Conflict, errors.Exhausted, errors.Forbidden, errors.InvalidInput, errors.Unavailable]
)
def test_an_error_crosses_the_socket_as_what_it_is(kind: type[errors.Error]) -> None:
    back = Fault.of(kind("no room; make some", reason="Because")).error()
    assert type(back) is kind
    assert (back.message, back.reason) == ("no room; make some", "Because")


def test_the_frameworks_code_crosses_the_socket() -> None:
    back = Fault.of(MachineFault("stopped", code=1, reason="GuestStopped")).error()
    assert isinstance(back, MachineFault)
    assert (back.code, back.reason) == (1, "GuestStopped")
    assert Fault.of(Exhausted("two run"), code=6).code == 6


@pytest.mark.parametrize("kind", ["NoSuchError", "clip", "ClassVar", "Enum", ""])
def test_an_unknown_error_is_a_machines_fault(kind: str) -> None:
    assert type(Fault(kind=kind, message="odd").error()) is MachineFault


def test_an_integrity_error_survives_its_other_signature() -> None:
    assert type(Fault.of(errors.Integrity("bytes differ")).error()) is errors.Integrity
    assert type(Fault.of(Unsupported("no")).error()) is Unsupported
