"""Variables that a service keeps in a file."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzkubelet.config import environment_file
from vzkubelet.errors import InvalidInput


@given(st.dictionaries(st.from_regex(r"[A-Z_][A-Z0-9_]{0,9}", fullmatch=True),
                       st.text(st.characters(exclude_categories=["Cs", "Cc"]))))  # fmt: skip
def test_what_is_written_is_read(variables: dict[str, str]) -> None:
    assert environment_file.parse(environment_file.text(variables), "file") == variables


def test_comments_blank_lines_and_quotes_as_a_shell_has_them() -> None:
    content = "# secret\n\nVZ_SSH_PASSWORD='a b#c'  # why\nDOCKER_HOST=\"unix:///x\"\nEMPTY=\n"
    assert environment_file.parse(content, "file") == {
        "VZ_SSH_PASSWORD": "a b#c", "DOCKER_HOST": "unix:///x", "EMPTY": "",
    }  # fmt: skip


@pytest.mark.parametrize("line", ["PASSWORD=geheim wort", "geheim", "A='geheim", "1A=geheim", "export A=geheim"])
def test_a_mistake_names_the_line_and_not_the_secret(line: str) -> None:
    with pytest.raises(InvalidInput, match="line 2 is not NAME=value") as failed:
        environment_file.parse(f"A=1\n{line}\n", "file")
    assert "geheim" not in str(failed.value)


@pytest.mark.parametrize("breaking", ["\n", "\r", "\0"])
def test_a_value_of_several_lines_is_refused(breaking: str) -> None:
    with pytest.raises(InvalidInput, match="more than one line"):
        environment_file.text({"A": f"b{breaking}c"})


def test_a_value_that_no_variable_can_hold_is_refused() -> None:
    with pytest.raises(InvalidInput, match="line 2 has a NUL character"):
        environment_file.parse("A=1\nB=x\0y\n", "file")


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    file = tmp_path / "agent.env"
    file.write_bytes(b"\xef\xbb\xbfA=1\n")
    assert environment_file.read(file) == {"A": "1"}


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"cannot read .*No such file"):
        environment_file.read(tmp_path / "absent")
