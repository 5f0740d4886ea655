"""What docs/macos.md tells people to type, as far as it can be typed here."""

import os
import re
import subprocess
from pathlib import Path

import click
import pytest
from cryptography import x509

from tests.cluster.control_plane import ControlPlane
from vzkubelet.cli.verbs import VERBS, root

DOCUMENT = Path(__file__).parents[2] / "docs" / "macos.md"


def blocks() -> list[str]:
    """The indented code blocks, dedented."""
    found = re.findall(r"(?:^    .*\n(?:\n(?=    ))?)+", DOCUMENT.read_text(), flags=re.MULTILINE)
    return [re.sub(r"^    ", "", block, flags=re.MULTILINE) for block in found]


def lines(command: str) -> list[str]:
    joined = re.sub(r"\$\([^)]*\)", "VALUE", "\n".join(blocks()).replace("\\\n", " "))
    return [line for line in joined.splitlines() if f"{command} " in line]


def options(command: click.Command) -> set[str]:
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}


def test_every_verb_and_option_exists() -> None:
    seen = set()
    for line in lines("macos-vz-kubelet"):
        words = line.partition("macos-vz-kubelet ")[2].partition(" #")[0].partition(" -- ")[0].split()
        if words[0] not in VERBS:
            continue
        context = click.Context(root)
        command = root.get_command(context, words.pop(0))
        assert command is not None
        if isinstance(command, click.Group):
            command = command.get_command(context, words.pop(0))
        assert command is not None, line
        seen.add(command.name)
        for word in words:
            if word.startswith("-"):
                known = options(command)
                assert word.partition("=")[0] in known or all(f"-{letter}" in known for letter in word[1:]), line
    assert {"sign", "doctor", "install", "create", "push", "run", "exec"} <= seen


def test_the_certificates_of_a_node_are_made_as_written(cluster: ControlPlane, tmp_path: Path) -> None:
    script = next(block for block in blocks() if "certify()" in block)
    script = script.replace("NODE=mac-1 IP=192.0.2.10", "NODE=documented-mac IP=192.0.2.10")
    environment = os.environ | {
        "KUBECONFIG": str(cluster.admin_kubeconfig),
        "PATH": f"{cluster.kubectl.parent}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["bash", "-euc", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    serving = x509.load_pem_x509_certificate((tmp_path / "serving.crt").read_bytes())
    names = serving.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["documented-mac"]
    who = subprocess.run(
        [cluster.kubectl, "--kubeconfig", tmp_path / "node.kubeconfig", "auth", "whoami", "-o", "json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert '"system:node:documented-mac"' in who.stdout
    assert '"system:nodes"' in who.stdout


def position(text: str) -> int:
    document = DOCUMENT.read_text()
    assert text in document, text
    return document.index(text)


def first_steps() -> list[str]:
    """The blocks of the first pod, as one reader types them one after the other."""
    end = position("### 5. A node")
    document = DOCUMENT.read_text()
    return [block for block in blocks() if document.index(block.splitlines()[0]) < end]


def test_a_reader_stays_where_relative_names_are_right() -> None:
    """Hazard: after `cd sequoia` the bundle `sequoia` of the next command is not there."""
    moves = [line for block in first_steps() for line in block.splitlines() if re.match(r"(?!\().*\bcd\b", line)]
    assert moves == [
        "cd && git clone <this repository> macos-vz-kubelet && cd macos-vz-kubelet",
        "mkdir -p ~/vm-images && cd ~/vm-images",
    ]
    assert position("cd ~/vm-images") < position("image create") < position("(cd sequoia && macosvm")
    assert position("(cd sequoia && macosvm") < position("image push --bundle sequoia")


def test_another_terminal_has_the_program_and_the_login() -> None:
    """Hazard: a new Terminal has neither PATH nor VZ_SSH_*, and `exec` fails to log in."""
    block = next(block for block in first_steps() if "macos-vz-kubelet exec" in block)
    exported = block[: block.index("macos-vz-kubelet ps")]
    for name in ("PATH=", "VZ_SSH_USER=", "VZ_SSH_PASSWORD="):
        assert name in exported


@pytest.mark.parametrize(
    ("source", "program"),
    [
        ("xcode-select --install", "git clone"),
        ("python.org", "python3.13 -m venv"),
        ("github.com/s-u/macosvm/releases", "macosvm -g"),
        ("brew install cirruslabs/cli/tart", "tart clone"),
        ("brew install kubectl", "kubectl apply"),
    ],
)
def test_programs_that_a_new_mac_lacks_are_told_where_they_are_needed(source: str, program: str) -> None:
    assert position(source) < position(program)


def test_it_is_linked_and_its_links_lead_somewhere() -> None:
    assert "docs/macos.md" in (DOCUMENT.parents[1] / "README.md").read_text()
    text = DOCUMENT.read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (DOCUMENT.parent / target).exists(), target
    headings = {
        re.sub(r"[^a-z0-9 -]", "", line.lower()).strip().replace(" ", "-")
        for line in re.findall(r"^#+ (.*)$", text, re.M)
    }
    for anchor in re.findall(r"\]\(#([^)]+)\)", text):
        assert anchor in headings, anchor


@pytest.mark.parametrize("name", ["VZ_SSH_PRIVATE_KEY_BASE64", "VZ_SSH_DIAL_TIMEOUT", "VZ_SSH_READINESS_TIMEOUT"])
def test_variables_that_it_names_are_settings(name: str) -> None:
    from vzkubelet import config

    assert name in DOCUMENT.read_text()
    assert name in {setting.env for setting in config.options()}
