"""The log format on disk, its recovery after a crash, and log queries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wire import feeding
from vzkubelet.model.logs import LogEntry, OutputStream
from vzkubelet.wire import log_lines

OUT, ERR = OutputStream.STDOUT, OutputStream.STDERR
NOON_NS = 1_795_262_400_000_000_000  # 2026-11-21T12:00:00Z


def entry(data: bytes, *, partial: bool = False, stream: OutputStream = OUT, time_ns: int = NOON_NS) -> LogEntry:
    return LogEntry(time_ns, stream, data, partial)


def decode(data: bytes, cut: feeding.Cut = feeding.whole) -> list[LogEntry]:
    decoder = log_lines.Decoder()
    return [one for piece in cut(data) for one in decoder.feed(piece)]


def test_lines_on_disk_have_nine_digits_and_a_tag():
    assert log_lines.encode(ERR, b"one\n\ntwo", NOON_NS + 5) == (
        b"2026-11-21T12:00:00.000000005Z stderr F one\n"
        b"2026-11-21T12:00:00.000000005Z stderr F \n"
        b"2026-11-21T12:00:00.000000005Z stderr P two\n"
    )
    assert log_lines.encode(OUT, b"", NOON_NS) == b""


@pytest.mark.parametrize("cut", feeding.CUTS)
def test_decoding_is_the_same_however_the_file_is_read(cut: feeding.Cut):
    data = log_lines.encode(OUT, b"a\nb c d\n\xff\x00", NOON_NS) + log_lines.encode(ERR, b"e\n", NOON_NS + 1)
    assert decode(data + b"2026-11-21T12:00:00Z stdout F to", cut) == [
        entry(b"a"),
        entry(b"b c d"),
        entry(b"\xff\x00", partial=True),
        entry(b"e", stream=ERR, time_ns=NOON_NS + 1),
    ]


@pytest.mark.parametrize(
    ("stamp", "offset_ns"),
    [
        (b"2026-11-21T12:00:00Z", 0),
        (b"2026-11-21T12:00:00.5Z", 500_000_000),
        (b"2026-11-21T13:00:00.123456789+01:00", 123_456_789),
        (b"2026-11-21T07:30:00.000000001-04:30", 1),
    ],
)
def test_time_stamps_of_other_writers(stamp: bytes, offset_ns: int):
    assert log_lines.decode_line(stamp + b" stdout F:extra x") == entry(b"x", time_ns=NOON_NS + offset_ns)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"2026-11-21T12:00:00Z stdout F",
        b"2026-11-21T12:00:00Z stdin F x",
        b"2026-11-21T12:00:00Z stdout X x",
        b"2026-11-21T12:00:00 stdout F x",
        b"2026-11-21T12:00:00.Z stdout F x",
        b"2026-11-21T12:00:00.1234567890Z stdout F x",
        b"2026-99-21T12:00:00Z stdout F x",
        "2026-11-21T12:00:00.٣Z stdout F x".encode(),
        b"{} stdout F x",
    ],
)
def test_damaged_lines_are_counted_and_skipped(line: bytes):
    decoder = log_lines.Decoder()
    good = log_lines.encode(OUT, b"good\n", NOON_NS)
    assert decoder.feed(line + b"\n" + good) == [entry(b"good")]
    assert decoder.damaged_lines == 1


def test_an_endless_line_is_not_kept():
    decoder = log_lines.Decoder()
    for _ in range(40):
        assert decoder.feed(b"x" * 100_000) == []
    assert decoder.torn_bytes <= log_lines.MAX_LINE_BYTES
    assert decoder.feed(b"\n" + log_lines.encode(OUT, b"good\n", NOON_NS)) == [entry(b"good")]
    assert decoder.damaged_lines == 1


def test_long_lines_are_split_and_come_back_whole():
    line = b"x" * (2 * log_lines.MAX_DATA_BYTES + 1)
    entries = decode(log_lines.encode(OUT, line + b"\n", NOON_NS))
    assert [one.partial for one in entries] == [True, True, False]
    assert b"".join(map(log_lines.Formatter().format, entries)) == line + b"\n"


def test_ledger_finds_the_torn_line_and_the_received_bytes():
    whole = log_lines.encode(OUT, b"ab\ncd", NOON_NS) + log_lines.encode(ERR, b"\n", NOON_NS)
    ledger = log_lines.Ledger()
    ledger.feed(whole + log_lines.encode(OUT, b"torn\n", NOON_NS)[:-1])
    assert ledger.complete_bytes == len(whole)
    assert (ledger.received_bytes(OUT), ledger.received_bytes(ERR)) == (5, 1)


@given(
    st.lists(st.tuples(st.sampled_from(OutputStream), st.binary(max_size=60).map(lambda b: b.replace(b"a", b"\n")))),
    st.integers(min_value=0),
)
def test_a_writer_that_resumes_from_the_ledger_loses_and_repeats_nothing(
    writes: list[tuple[OutputStream, bytes]], crash: int
):
    """The hazard: a crash in the middle of a write, then the producer's output once more from the counted byte."""
    raw = {stream: b"".join(data for one, data in writes if one is stream) for stream in OutputStream}
    file = b"".join(log_lines.encode(stream, data, NOON_NS) for stream, data in writes)
    file = file[: crash % (len(file) + 1)]
    ledger = log_lines.Ledger()
    for piece in feeding.in_sevens(file):
        ledger.feed(piece)
    file = file[: ledger.complete_bytes]
    for stream in OutputStream:
        file += log_lines.encode(stream, raw[stream][ledger.received_bytes(stream) :], NOON_NS)
    formatters = {stream: log_lines.Formatter() for stream in OutputStream}
    read = dict.fromkeys(OutputStream, b"")
    for one in decode(file):
        read[one.stream] += formatters[one.stream].format(one)
    assert read == raw


def test_tail_counts_lines_of_output_not_lines_on_disk():
    entries = [entry(b"1"), entry(b"2a", partial=True), entry(b"2b"), entry(b"3", partial=True)]
    assert log_lines.tail(entries, 0) == []
    assert log_lines.tail(entries, 1) == entries[3:]
    assert log_lines.tail(entries, 2) == entries[1:]
    assert log_lines.tail(entries, 9) == entries
    assert log_lines.tail(entries, None) == entries


@given(
    st.lists(st.builds(entry, st.just(b"x"), partial=st.booleans(), stream=st.sampled_from(OutputStream)), max_size=12),
    st.integers(0, 6),
)
def test_tail_offset_agrees_with_tail(entries: list[LogEntry], lines: int):
    lines_on_disk = [
        log_lines.encode(one.stream, one.data + (b"" if one.partial else b"\n"), one.time_ns) for one in entries
    ]
    log = b"".join(lines_on_disk)
    offset = log_lines.tail_offset(log, lines, from_start=True)
    assert offset is not None
    assert decode(log[offset:]) == log_lines.tail(entries, lines)
    for size in range(0, len(log), 15):
        block_offset = log_lines.tail_offset(log[len(log) - size :], lines, from_start=False)
        if block_offset is not None:
            assert len(log) - size + block_offset == offset


def test_since_keeps_that_moment():
    entries = [entry(b"a", time_ns=1), entry(b"b", time_ns=2), entry(b"c", time_ns=3)]
    assert list(log_lines.since(entries, 2)) == entries[1:]
    assert list(log_lines.since(entries, None)) == entries


def test_time_stamps_stand_before_lines_not_before_parts():
    formatter = log_lines.Formatter(timestamps=True)
    text = b"".join(map(formatter.format, [entry(b"a", partial=True), entry(b"b"), entry(b"c")]))
    assert text == b"2026-11-21T12:00:00.000000000Z ab\n2026-11-21T12:00:00.000000000Z c\n"


def test_limit_cuts_to_the_byte():
    formatter = log_lines.Formatter(limit_bytes=5)
    assert formatter.format(entry(b"abc")) == b"abc\n"
    assert not formatter.exhausted
    assert formatter.format(entry(b"def")) == b"d"
    assert formatter.exhausted
    assert formatter.format(entry(b"ghi")) == b""
