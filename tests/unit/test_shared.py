"""The door to data beside the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.shared import shared_path


def test_absent_data_skips_the_test(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLC_SHARED", str(tmp_path))
    monkeypatch.delenv("MLC_REQUIRE_SHARED", raising=False)
    with pytest.raises(pytest.skip.Exception, match="nowhere"):
        shared_path("nowhere")


def test_absent_data_fails_the_test_where_it_is_required(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLC_SHARED", str(tmp_path))
    monkeypatch.setenv("MLC_REQUIRE_SHARED", "1")
    with pytest.raises(pytest.fail.Exception, match="nowhere"):
        shared_path("nowhere")


def test_present_data_is_found_where_the_variable_points(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "text.txt").write_text("x")
    monkeypatch.setenv("MLC_SHARED", str(tmp_path))
    assert shared_path("text.txt") == tmp_path / "text.txt"
