"""Our reader of QCOW2 disks against files that qemu-img makes, and against damaged ones."""

import os
import random
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from vzkubelet.errors import InvalidInput, Unsupported
from vzkubelet.images.bundles import qcow2

MIB = 1024 * 1024
SIZE = 40 * MIB + 512


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data at the start, across clusters, far away and in the last sector; holes, and zeros that were written."""
    path = tmp_path_factory.mktemp("raw") / "disk.raw"
    noise = random.Random(5)
    with path.open("wb") as file:
        file.truncate(SIZE)
        for offset, data in (
            (0, noise.randbytes(3 * MIB + 17)),
            (8 * MIB, b"compressible " * 200_000),
            (20 * MIB - 100, noise.randbytes(70_000)),
            (30 * MIB, bytes(MIB)),
            (SIZE - 512, noise.randbytes(512)),
        ):
            file.seek(offset)
            file.write(data)
    return path


def qemu_img(*arguments: object) -> None:
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, capture_output=True)


def convert(raw: Path, target: Path, *arguments: str) -> Path:
    qemu_img("convert", "-f", "raw", "-O", "qcow2", *arguments, raw, target)
    return target


def content(path: Path) -> bytes:
    """The disk, as the reader gives it."""
    with path.open("rb") as file:
        reader = qcow2.Reader(file.fileno(), path.name)
        disk = bytearray(reader.size_bytes)
        end = 0
        for offset, data in reader.data():
            assert offset >= end
            end = offset + len(data)
            assert end <= reader.size_bytes
            disk[offset:end] = data
    return bytes(disk)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["-c"],
        ["-c", "-o", "compression_type=zstd"],
        ["-o", "compat=0.10"],
        ["-c", "-o", "compat=0.10"],
        ["-o", "cluster_size=512"],
        ["-o", "cluster_size=2M"],
        ["-c", "-o", "cluster_size=2M,compression_type=zstd"],
        ["-o", "preallocation=metadata"],
        ["-o", "preallocation=falloc"],
        ["-o", "lazy_refcounts=on"],
        ["-o", "refcount_bits=1"],
    ],
    ids=" ".join,
)
def test_what_qemu_img_wrote_is_read_as_it_was(raw: Path, tmp_path: Path, arguments: list[str]) -> None:
    assert content(convert(raw, tmp_path / "disk.qcow2", *arguments)) == raw.read_bytes()


def test_zeros_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "empty.qcow2"
    qemu_img("create", "-f", "qcow2", path, "100G")
    with path.open("rb") as file:
        reader = qcow2.Reader(file.fileno(), "empty")
        assert (reader.size_bytes, list(reader.data())) == (100 * 1024 * MIB, [])


def test_zero_clusters_hide_what_is_behind_them(raw: Path, tmp_path: Path) -> None:
    """Hazard: a cluster that was discarded is read with what it held before."""
    path = convert(raw, tmp_path / "disk.qcow2")
    subprocess.run(["qemu-io", "-c", "write -z 0 1M", "-c", "discard 1M 1M", path], check=True, capture_output=True)
    back = tmp_path / "back.raw"
    qemu_img("convert", "-O", "raw", path, back)
    assert content(path) == back.read_bytes()
    assert content(path)[: 2 * MIB] == bytes(2 * MIB)


def test_snapshots_do_not_disturb_and_are_told(raw: Path, tmp_path: Path) -> None:
    path = convert(raw, tmp_path / "disk.qcow2")
    qemu_img("snapshot", "-c", "before", path)
    subprocess.run(["qemu-io", "-c", "write -P 7 0 128k", path], check=True, capture_output=True)
    assert content(path)[: 128 * 1024] == b"\7" * 128 * 1024
    assert not qcow2.has_saved_state(path, "before")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-o", "backing_file=base.raw,backing_fmt=raw"], "needs a backing file"),
        (["-o", "data_file=other.raw"], "keeps its data in another file"),
        (["-o", "extended_l2=on"], "extended L2"),
        (
            ["--object", "secret,id=s,data=abc", "-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"],
            "is encrypted",
        ),
    ],
    ids=["backing", "data file", "extended", "encrypted"],
)
def test_what_reads_other_files_or_needs_a_key_is_refused(tmp_path: Path, arguments: list[str], words: str) -> None:
    """Hazard: an image from elsewhere that names /etc/shadow as its backing file."""
    (tmp_path / "base.raw").write_bytes(bytes(MIB))
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", *arguments, "disk.qcow2", "1M"], cwd=tmp_path, check=True
    )
    with pytest.raises(Unsupported, match=words):
        content(tmp_path / "disk.qcow2")


def test_a_file_that_is_cut_off_is_no_disk(raw: Path, tmp_path: Path) -> None:
    """Hazard: a download that broke is imported with zeros where its end was."""
    path = convert(raw, tmp_path / "disk.qcow2")
    os.truncate(path, path.stat().st_size - 70_000)
    with pytest.raises(InvalidInput, match="cut off"):
        content(path)


def test_a_compressed_file_that_is_damaged_is_told(tmp_path: Path) -> None:
    text = tmp_path / "text.raw"
    text.write_bytes("".join(map(str, range(800_000))).encode()[: 4 * MIB])
    path = convert(text, tmp_path / "disk.qcow2", "-c")
    with path.open("r+b") as file:
        file.seek(path.stat().st_size - 200_000)
        file.write(b"\xff" * 100_000)
    with pytest.raises(InvalidInput, match="compressed cluster"):
        content(path)


def test_a_corrupt_mark_is_believed(raw: Path, tmp_path: Path) -> None:
    path = convert(raw, tmp_path / "disk.qcow2")
    with path.open("r+b") as file:
        file.seek(72)
        file.write(struct.pack(">Q", 2))
    with pytest.raises(InvalidInput, match="corrupt"):
        content(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(changes=[(40, 128)])  # a table behind the last byte that there can be
@given(
    changes=st.lists(
        st.tuples(st.integers(0, 120) | st.integers(0, 400_000), st.integers(0, 255)), min_size=1, max_size=6
    )
)
def test_any_bytes_are_read_or_refused_within_bounds(
    tmp_path_factory: pytest.TempPathFactory, small: Path, changes: list[tuple[int, int]]
) -> None:
    """Hazard: a hostile header makes the reader crash, hang or take the host's memory."""
    damaged = bytearray(small.read_bytes())
    for position, value in changes:
        if position < len(damaged):
            damaged[position] = value
    path = tmp_path_factory.getbasetemp() / "damaged.qcow2"
    path.write_bytes(damaged)
    with path.open("rb") as file:
        try:
            reader = qcow2.Reader(file.fileno(), "damaged")
            list(reader.snapshot_names())
            for number, (offset, data) in enumerate(reader.data()):
                assert 0 <= offset < offset + len(data) <= reader.size_bytes
                assert len(data) <= 2 * MIB
                if number > 1000:
                    break
        except (InvalidInput, Unsupported):
            pass


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("small")
    (directory / "raw").write_bytes(random.Random(1).randbytes(100_000) + b"abc" * 20_000 + bytes(400_480))
    return convert(directory / "raw", directory / "small.qcow2", "-c", "-o", "cluster_size=4k")
