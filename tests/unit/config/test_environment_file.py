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


def test_a_value_of_several_lines_is_refused() -> None:
    with pytest.raises(InvalidInput, match="more than one line"):
        environment_file.text({"A": "b\nc"})


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"cannot read .*No such file"):
        environment_file.read(tmp_path / "absent")
