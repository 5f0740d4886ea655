"""`make check` notices, without network, that a lock no longer belongs to its inputs."""

import shutil
from pathlib import Path

import pytest

from tools import lock

CHECKOUT = Path(__file__).parents[3]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(CHECKOUT / "requirements", tmp_path / "requirements")
    shutil.copy(CHECKOUT / "pyproject.toml", tmp_path)
    monkeypatch.setattr(lock, "ROOT", tmp_path)
    monkeypatch.setattr(lock, "LOCKS", tmp_path / "requirements")
    monkeypatch.setattr("sys.argv", ["lock", "--check"])
    return tmp_path


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def test_locks_of_this_checkout_are_up_to_date(checkout: Path) -> None:
    assert lock.main() == 0


def test_changed_dependency_is_noticed_in_every_lock_it_belongs_to(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replace(checkout / "pyproject.toml", '"click>=8.1"', '"click>=8.2"')
    assert lock.main() == 1
    shown = capsys.readouterr().err
    assert "runtime.lock does not belong to pyproject.toml: run make lock" in shown
    assert "dev.lock does not belong to pyproject.toml" in shown
    assert "go.lock" not in shown


def test_changed_lint_rule_asks_for_no_new_lock(checkout: Path) -> None:
    replace(checkout / "pyproject.toml", "line-length = 120", "line-length = 100")
    assert lock.main() == 0


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("click==", "--index-url https://example.org/simple\nclick==", "names a place to download from"),
        ("click==", "unhashed==1.0\nclick==", "has no hash for unhashed==1.0"),
    ],
)
def test_lock_edited_by_hand_is_noticed(
    checkout: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, problem: str
) -> None:
    replace(checkout / "requirements/dev.lock", old, new)
    assert lock.main() == 1
    assert problem in capsys.readouterr().err


def test_missing_lock_is_noticed(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (checkout / "requirements/go.lock").unlink()
    assert lock.main() == 1
    assert "requirements/go.lock is missing: run make lock" in capsys.readouterr().err
