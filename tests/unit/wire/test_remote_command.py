"""Remote command sessions, driven by a SPDY client as client-go opens one."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wire import feeding
from vzkubelet.errors import Forbidden, InvalidInput, LocalProtocolError
from vzkubelet.wire import remote_command as rc
from vzkubelet.wire import spdy, streams

ALL = rc.Options(stdin=True, stdout=True, stderr=True, tty=False)
TERMINAL = rc.Options(stdin=True, stdout=True, stderr=False, tty=True)


class Client:
    """Opens channels and keeps what comes back, per channel."""

    def __init__(
        self,
        options: rc.Options = ALL,
        protocol: rc.Protocol = rc.Protocol.V4,
        cut: feeding.Cut = feeding.whole,
    ) -> None:
        self.connection = spdy.Connection(spdy.Role.CLIENT)
        self.session = rc.Session(spdy.Connection(spdy.Role.SERVER), options, protocol)
        self.ids: dict[str, int] = {}
        self.received: dict[int, bytes] = {}
        self.ended: list[int] = []
        self.reset: list[int] = []
        self._cut = cut

    def open(self, *channels: str) -> None:
        for channel in channels:
            self.ids[channel] = self.connection.open_stream({"streamType": channel})

    def exchange(self) -> list[rc.Event]:
        for piece in self._cut(self.connection.data_to_send()):
            self.session.receive_data(piece)
        for piece in self._cut(self.session.data_to_send()):
            self.connection.receive_data(piece)
        for event in self.connection.events():
            match event:
                case streams.DataReceived(stream_id, data):
                    self.received[stream_id] = self.received.get(stream_id, b"") + data
                case streams.StreamEnded(stream_id):
                    self.ended.append(stream_id)
                case streams.StreamReset(stream_id):
                    self.reset.append(stream_id)
        return self.session.events()

    def of(self, channel: str) -> bytes:
        return self.received.get(self.ids[channel], b"")

    def ended_channels(self) -> list[str]:
        names = {number: name for name, number in self.ids.items()}
        return [names[number] for number in self.ended]


@pytest.mark.parametrize(
    ("lines", "chosen"),
    [
        (["v5.channel.k8s.io", "v4.channel.k8s.io", "v3.channel.k8s.io"], "v4.channel.k8s.io"),
        (["v5.channel.k8s.io, v3.channel.k8s.io,channel.k8s.io"], "v3.channel.k8s.io"),
        (["channel.k8s.io", "v4.channel.k8s.io"], "channel.k8s.io"),
    ],
)
def test_the_clients_first_known_offer_wins(lines: list[str], chosen: str):
    assert rc.negotiate(lines) == (chosen, rc.PROTOCOLS[chosen])


@pytest.mark.parametrize(("lines", "error"), [([], InvalidInput), ([""], InvalidInput), (["v9.k8s.io"], Forbidden)])
def test_no_offer_is_400_and_no_match_is_403(lines: list[str], error: type[Exception]):
    with pytest.raises(error):
        rc.negotiate(lines)


def test_options_take_only_the_literal_one_and_a_terminal_has_no_stderr():
    assert rc.Options.of_query({"output": "1", "error": "true"}) == rc.Options(False, True, False, False)
    assert rc.Options.of_query({"input": "1", "output": "1", "error": "1", "tty": "1"}) == TERMINAL
    with pytest.raises(InvalidInput, match="at least 1 of stdin, stdout, stderr"):
        rc.Options.of_query({"tty": "1"})


@pytest.mark.parametrize("cut", feeding.CUTS)
def test_exec_from_start_to_outcome(cut: feeding.Cut):
    client = Client(cut=cut)
    client.open("error", "stdin", "stdout")
    assert client.exchange() == []
    assert client.session.missing_channels == ["stderr"]
    client.open("stderr")
    client.connection.send_data(client.ids["stdin"], b"in")
    client.connection.end_stream(client.ids["stdin"])
    events = client.exchange()
    assert events[0] == rc.Ready()
    assert b"".join(e.data for e in events if isinstance(e, rc.StdinReceived)) == b"in"
    assert events[-1] == rc.StdinEnded()

    client.session.write_stdout(b"out")
    client.session.write_stderr(b"err")
    client.session.finish(rc.Exited(3))
    client.exchange()
    assert (client.of("stdout"), client.of("stderr")) == (b"out", b"err")
    status = json.loads(client.of("error"))
    assert status["status"] == "Failure"
    assert status["reason"] == "NonZeroExitCode"
    assert status["details"]["causes"] == [{"reason": "ExitCode", "message": "3"}]
    assert client.ended_channels() == ["stdout", "stderr", "error", "stdin"]


def test_outputs_end_before_the_outcome_is_written():
    """Clients read the outcome only after both outputs have ended, and a dropped outcome reads as success."""
    order: list[str] = []
    client = Client()
    client.open("error", "stdin", "stdout", "stderr")
    client.exchange()
    client.session.finish(rc.Exited(0))
    client.connection.receive_data(client.session.data_to_send())
    names = {number: name for name, number in client.ids.items()}
    for event in client.connection.events():
        match event:
            case streams.StreamEnded(stream_id):
                order.append(f"{names[stream_id]} ended")
            case streams.DataReceived(stream_id):
                order.append(f"{names[stream_id]} data")
    assert order == ["stdout ended", "stderr ended", "error data", "error ended", "stdin ended"]


@pytest.mark.parametrize("code", [1, 3, 137, 255])
def test_exit_codes_travel_as_causes(code: int):
    status = rc.outcome_status(rc.Exited(code))
    assert status.details is not None
    assert status.details.causes is not None
    assert status.details.causes[0].message == str(code)


def test_outcomes_on_the_wire():
    assert json.loads(rc.encode_outcome(rc.Exited(0), rc.Protocol.V4)) == {"status": "Success"}
    assert json.loads(rc.encode_outcome(rc.Failed("no such file"), rc.Protocol.V4)) == {
        "status": "Failure",
        "message": "Internal error occurred: no such file",
        "reason": "InternalError",
        "details": {"causes": [{"message": "no such file"}]},
        "code": 500,
    }
    assert rc.encode_outcome(rc.Exited(0), rc.Protocol.V3) == b""
    assert rc.encode_outcome(rc.Exited(2), rc.Protocol.V1) == (
        b"command terminated with non-zero exit code: exit status 2"
    )


def test_terminal_sizes_come_with_and_without_newlines_and_bad_ones_are_skipped():
    client = Client(TERMINAL, cut=feeding.byte_by_byte)
    client.open("error", "stdin", "stdout", "resize")
    client.exchange()
    for message in (
        b'{"Width":80,"Height":24}\n',
        b'{"Width":81,"Height":25}',
        b'\n{"Width":0,"Height":25}\n{"Width":"x"}\n{}\nnonsense}',
        b'{"Width":70000,"Height":1}\n{"Width":82,"Height":26}\n',
    ):
        client.connection.send_data(client.ids["resize"], message)
    assert client.exchange() == [rc.Resized(80, 24), rc.Resized(81, 25), rc.Resized(82, 26)]


def test_endless_resize_data_is_not_kept():
    client = Client(TERMINAL)
    client.open("error", "stdin", "stdout", "resize")
    client.exchange()
    for _ in range(100):
        client.connection.send_data(client.ids["resize"], b" " * 10_000)
    client.connection.send_data(client.ids["resize"], b'{"Width":80,"Height":24}\n')
    assert client.exchange() == [rc.Resized(80, 24)]


def test_no_resize_channel_before_v3():
    client = Client(TERMINAL, rc.Protocol.V2)
    client.open("error", "stdin", "stdout")
    assert client.exchange() == [rc.Ready()]


def test_unknown_and_repeated_channels_are_refused_and_the_session_lives():
    client = Client()
    client.open("error", "stdin", "stdout")
    client.connection.open_stream({"streamType": "nonsense"})
    client.connection.open_stream({})
    client.connection.open_stream({"streamType": "stdin"})
    client.open("stderr")
    assert client.exchange() == [rc.Ready()]
    assert client.reset == [7, 9, 11]


def test_stderr_beside_a_terminal_is_an_empty_stream():
    client = Client(TERMINAL)
    client.open("error", "stdin", "stdout", "stderr", "resize")
    assert client.exchange() == [rc.Ready()]
    assert client.ended_channels() == ["stderr"]
    client.session.write_stderr(b"nowhere")
    client.exchange()
    assert client.of("stderr") == b""


def test_a_reset_of_stdin_is_end_of_file_once():
    client = Client()
    client.open("error", "stdin", "stdout", "stderr")
    client.exchange()
    client.connection.end_stream(client.ids["stdin"])
    client.connection.reset_stream(client.ids["stdin"])
    assert client.exchange() == [rc.StdinEnded()]


def test_a_reset_output_swallows_what_is_written():
    client = Client()
    client.open("error", "stdin", "stdout", "stderr")
    client.exchange()
    client.connection.reset_stream(client.ids["stdout"])
    client.exchange()
    client.session.write_stdout(b"nobody reads this")
    client.session.write_stderr(b"err")
    client.session.finish(rc.Exited(0))
    client.exchange()
    assert client.of("stderr") == b"err"
    assert json.loads(client.of("error")) == {"status": "Success"}


def test_the_peers_leaving_is_told_once():
    client = Client()
    client.open("error", "stdin", "stdout", "stderr")
    client.exchange()
    client.connection.go_away()
    assert client.exchange() == [rc.PeerLeft("the client closed the session")]
    client.session.receive_eof()
    assert client.session.events() == []
    client.session.write_stdout(b"late")
    client.session.finish(rc.Exited(0))
    assert client.session.data_to_send() == b""


def test_input_after_the_outcome_is_read_and_dropped():
    client = Client()
    client.open("error", "stdin", "stdout", "stderr")
    client.exchange()
    client.session.finish(rc.Exited(0))
    client.connection.send_data(client.ids["stdin"], b"late input")
    client.connection.end_stream(client.ids["stdin"])
    assert client.exchange() == []
    with pytest.raises(LocalProtocolError):
        client.session.finish(rc.Exited(1))


def test_finishing_before_all_channels_came_still_says_why():
    client = Client()
    client.open("error")
    client.exchange()
    client.session.finish(rc.Failed("timed out"))
    client.exchange()
    assert json.loads(client.of("error"))["reason"] == "InternalError"


@given(st.binary(max_size=200))
def test_any_resize_bytes_are_survived(data: bytes):
    client = Client(TERMINAL)
    client.open("error", "stdin", "stdout", "resize")
    client.exchange()
    client.connection.send_data(client.ids["resize"], data)
    client.exchange()
