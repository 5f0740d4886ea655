import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzkubelet.errors import InvalidInput
from vzkubelet.guests import shell

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


def unquoted(word: str) -> str:
    """What a shell makes of single-quoted parts, escaped quotes and ``"$n"``, the only forms that are written."""
    result, rest = "", word
    while rest:
        if rest.startswith("'"):
            inside, _, rest = rest[1:].partition("'")
            result += inside
        elif rest.startswith("\\'"):
            result, rest = result + "'", rest[2:]
        else:
            assert rest.startswith('"$n"'), rest
            result, rest = result + "\n", rest[4:]
    return result


@given(TEXT)
def test_a_quoted_text_is_one_word_with_that_text(text: str) -> None:
    assert unquoted(shell.quote(text)) == text


@given(TEXT)
def test_a_script_becomes_one_line_without_losing_newlines(text: str) -> None:
    line = shell.one_line(text + "\n").decode()
    assert line.endswith("\n")
    assert "\n" not in line[:-1]
    setting, _, word = line[:-1].partition("eval ")
    assert setting == "n=$(printf '\\n.');n=${n%.};"
    assert unquoted(word) == text + "\n"


def test_a_script_of_one_line_is_sent_as_it_is() -> None:
    assert shell.one_line("echo a") == b"echo a\n"


def test_a_nul_is_refused() -> None:
    with pytest.raises(InvalidInput):
        shell.quote("a\0b")


def test_bytes_that_are_no_utf8_come_back_as_they_were() -> None:
    assert shell.encode(b"\xff\xfe".decode("utf-8", "surrogateescape")) == b"\xff\xfe"


@pytest.mark.parametrize("name", ["start.sh", "supervise.sh", "follow.sh", "users.sh", "linux.sh"])
def test_scripts_are_loaded_without_comments(name: str) -> None:
    text = shell.load(name)
    assert text
    assert not [line for line in text.splitlines() if line.lstrip().startswith("#")]
