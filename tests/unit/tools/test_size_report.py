from pathlib import Path

import pytest

from tools import size_report


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(size_report, "ROOT", tmp_path)
    file = tmp_path / "module.py"
    monkeypatch.setattr(size_report, "_sources", lambda: [file])
    return file


@pytest.mark.parametrize(
    ("lines", "code", "shown"), [(400, 0, ""), (401, 0, "401 lines, long"), (601, 1, "601 lines, too long")]
)
def test_module(module: Path, capsys: pytest.CaptureFixture[str], lines: int, code: int, shown: str) -> None:
    module.write_text("x = 1\n" * lines)
    assert size_report.main() == code
    assert shown in capsys.readouterr().out


@pytest.mark.parametrize(
    ("lines", "code", "shown"),
    [(50, 0, ""), (51, 0, "module.py:1 f(): 51 lines, long"), (81, 1, "f(): 81 lines, too long, at most 80")],
)
def test_function(module: Path, capsys: pytest.CaptureFixture[str], lines: int, code: int, shown: str) -> None:
    module.write_text("async def f():\n" + "    x = 1\n" * (lines - 1))
    assert size_report.main() == code
    out = capsys.readouterr().out
    assert shown in out
    assert bool(out) == bool(shown)
