"""What is wrong with the machine is told before any work, with the variable or the command that mends it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes import FakeTools
from tests.unit.test_cli import run
from tests.unit.test_launch_guest import Order, image, order

__all__ = ["image", "order"]


@pytest.mark.parametrize(
    ("variable", "verb"),
    [
        ("BUILDER_IMAGES", ["images"]),
        ("BUILDER_IMAGES", ["images", "ses"]),
        ("BUILDER_IMAGES", ["instances", "list"]),
        ("BUILDER_IMAGES", ["bake", "--preset", "ses", "--base", "debian-12"]),
        ("BUILDER_IMAGES", ["demo"]),
        ("BUILDER_CACHE", ["base", "list"]),
        ("BUILDER_CACHE", ["base", "fetch", "ubuntu-24.04"]),
        ("BUILDER_CACHE", ["bake", "--preset", "ses", "--base", "debian-12"]),
    ],
)
@pytest.mark.parametrize("below", ["", "folder"])
def test_a_file_in_the_place_of_a_folder_names_the_variable(
    variable: str, verb: list[str], below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv(variable, str(file / below))

    code, out, err = run(capsys, *verb)

    assert (code, out) == (1, "")
    assert f"`{file}` is not a folder" in " ".join(err.split())
    assert variable in err


def test_a_base_that_is_a_file_needs_a_cache_that_is_none_too(
    order: Order, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    order()
    (tmp_path / "file").touch()
    monkeypatch.setenv("BUILDER_CACHE", str(tmp_path / "file"))

    code, _out, err = run(
        capsys, "bake", "--preset", "ses", "--base", str(image), "--release", "debian-12", "--dry-run"
    )

    assert code == 1
    assert "BUILDER_CACHE" in err


def test_the_demo_looks_for_packer_before_it_makes_a_base(
    fake_tool: FakeTools, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_tool.only()

    code, _out, err = run(capsys, "demo")

    assert code == 1
    assert "packer" in err
    assert "apt-get install packer" in err
