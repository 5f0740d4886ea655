"""`python -m tests.cluster.guest`: the guest of the examples, and its firmware, into the local cache."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.cluster import agent
from tests.cluster.processes import ComponentFailed
from tests.cluster.registry import Registry
from vzkubelet import config
from vzkubelet.daemon.parts import FIRMWARE

PORT = 5000
REFERENCE = f"localhost:{PORT}/linux-guest:latest"
"""As in examples/*.yaml."""


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="guest-") as scratch:
        try:
            print("building the guest (first time: downloads Debian packages, about 30 s)", flush=True)
            output = agent.build_guest(Path(scratch) / "image")
            with Registry(Path(scratch) / "registry", port=PORT):
                agent.push_guest(output, REFERENCE)
                subprocess.run([agent.program(), "image", "pull", REFERENCE], check=True)
            cache = config.read({}, purpose=config.Purpose.STANDALONE).cache_dir
            shutil.copyfile(output / "firmware.fd", cache / FIRMWARE)
        except (ComponentFailed, OSError, subprocess.CalledProcessError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    print("\nTry: .venv/bin/macos-vz-kubelet run examples/hello.yaml")
    return 0


if __name__ == "__main__":
    sys.exit(main())
