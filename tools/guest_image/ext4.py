"""The root file system: ext4, written with e2fsprogs so that the same tree always gives the same bytes."""

from __future__ import annotations

import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from .errors import BuildError
from .programs import run
from .tree import Directory, File, Symlink, Tree

_BLOCK_BYTES = 4096
# mke2fs reads defaults from the host's mke2fs.conf: every feature is named here so that the host has no say.
_FEATURES = (
    "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,flex_bg,sparse_super,large_file,huge_file,"
    "extra_isize,metadata_csum"
)
_JOURNAL_MIB = 4
_BYTES_PER_INODE = 8192


def _quoted(path: str) -> str:
    if '"' in path or "\n" in path:
        raise BuildError(f"guest path {path!r} holds a character that debugfs cannot take")
    return f'"{path}"'


def _commands(tree: Tree, contents: Path) -> list[str]:
    lines: list[str] = []
    for number, (path, node) in enumerate(tree.walk()):
        parent, _, base = path.rpartition("/")
        name = _quoted(base)
        lines.append(f"cd {_quoted(parent or '/')}")  # `write` takes a name in the current directory, no path
        match node:
            case Directory(mode, uid, gid):
                # mke2fs made lost+found and debugfs has no mkdir -p: the builder never adds either twice.
                lines.append(f"mkdir {name}")
                lines.append(f"set_inode_field {name} mode 0{0o040000 | mode:o}")
            case File(content, mode, uid, gid):
                source = contents / f"{number:06d}"
                source.write_bytes(content)
                lines.append(f"write {source} {name}")
                lines.append(f"set_inode_field {name} mode 0{0o100000 | mode:o}")
            case Symlink(target):
                uid = gid = 0
                lines.append(f"symlink {name} {_quoted(target)}")
        if uid or gid:
            lines.append(f"set_inode_field {name} uid {uid}")
            lines.append(f"set_inode_field {name} gid {gid}")
    return lines


def write(image: Path, tree: Tree, *, size_bytes: int, label: str, uuid: str, epoch_s: int) -> None:
    """Create `image` of `size_bytes` with the tree in it, owners and modes as the nodes say, every time `epoch_s`.

    Raises: BuildError when the tree does not fit or e2fsprogs refuses.
    """
    fixed = {"E2FSPROGS_FAKE_TIME": str(epoch_s), "SOURCE_DATE_EPOCH": str(epoch_s), "MKE2FS_CONFIG": "/dev/null"}
    with image.open("wb") as stream:
        stream.truncate(size_bytes)
    run(
        [
            "mke2fs", "-q", "-F", "-t", "ext4", "-O", _FEATURES, "-b", str(_BLOCK_BYTES), "-I", "256",
            "-i", str(_BYTES_PER_INODE), "-J", f"size={_JOURNAL_MIB}", "-m", "0", "-L", label, "-U", uuid,
            "-E", f"hash_seed={uuid},root_owner=0:0,lazy_itable_init=0,lazy_journal_init=1,nodiscard", str(image),
        ],
        environment=fixed,
    )  # fmt: skip
    with TemporaryDirectory(prefix="guest-image-") as scratch:
        script = "\n".join(_commands(tree, Path(scratch))) + "\n"
        # debugfs exits 0 whatever its commands did: what it writes to standard error is the verdict.
        done = subprocess.run(
            ["debugfs", "-w", "-f", "-", str(image)],
            env={"PATH": "/usr/sbin:/sbin:/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC", **fixed},
            input=script, capture_output=True, text=True, check=False,
        )  # fmt: skip
    complaints = [line for line in done.stderr.splitlines() if line and not line.startswith("debugfs 1.")]
    if done.returncode != 0 or complaints:
        raise BuildError(f"debugfs could not fill the root file system: {'; '.join(complaints[:5])}")
