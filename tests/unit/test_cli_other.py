"""The verbs `base`, `init`, `doctor`, `bake` and `conformance` as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builder.doctor import TOOLS
from tests.fakes import FakeTools
from tests.unit.test_cli import run


def test_base_list_names_every_base(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _err = run(capsys, "base", "list", "--json")

    assert code == 0
    assert {"ubuntu-24.04", "debian-12"} <= {row["name"] for row in json.loads(out)}


def test_an_unknown_base_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    code, _out, err = run(capsys, "bake", "--preset", "ses", "--base", "ubuntu-2404")

    assert code == 1
    assert "ubuntu-24.04" in err


def test_a_base_file_that_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _out, err = run(capsys, "bake", "--preset", "ses", "--base", str(tmp_path / "base.qcow2"))

    assert code == 1
    assert "does not exist" in err


def test_init_writes_a_file_that_renders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    code, out, err = run(capsys, "init", "--preset", "mailgun")
    assert (code, out) == (0, "")
    assert "Wrote `relay.yaml`" in err

    assert run(capsys, "render")[0] == 0


def test_init_leaves_a_file_alone_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "relay.yaml").write_text("mine\n")

    code, _out, err = run(capsys, "init")

    assert code == 1
    assert "it is there already" in err
    assert (tmp_path / "relay.yaml").read_text() == "mine\n"


def test_doctor_ends_with_1_when_something_is_missing(
    fake_tool: FakeTools, capsys: pytest.CaptureFixture[str]
) -> None:
    for tool in TOOLS:
        fake_tool(tool.name, "echo 99.0")
    fake_tool.only()

    code, out, err = run(capsys, "doctor", "--offline", "--json")

    packer = next(each for each in json.loads(out) if each["name"] == "packer")
    assert (code, packer["status"]) == (1, "missing")
    assert "needed to bake" in err
    assert "apt-get install --no-install-recommends packer" in err


def test_an_option_of_the_other_target_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    code, _out, err = run(capsys, "bake", "--preset", "ses", "--source-ami", "ami-0a1b2c3d")

    assert code == 2
    assert "`--source-ami` goes with `--target ami` only." in err


@pytest.mark.parametrize("option", ["--verify=standard", "--verify=none", "--accelerator=tcg", "--release=x"])
def test_an_option_that_does_nothing_for_an_ami_is_wrong_usage(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _out, err = run(capsys, "bake", "--preset", "ses", "--target", "ami", option)

    assert code == 2
    assert f"`{option.partition('=')[0]}` goes with `--target qemu` only." in err


def test_a_variable_without_a_value_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    code, _out, err = run(capsys, "bake", "--preset", "ses", "--target", "ami", "--var", "instance_type")

    assert code == 2
    assert "NAME=VALUE" in err


def test_the_cases_of_the_conformance_suite_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _err = run(capsys, "conformance", "--list")

    assert code == 0
    assert "password-rotated" in out


def test_an_unknown_case_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    code, _out, err = run(capsys, "conformance", "no-such-case")

    assert code == 1
    assert "`no-such-case`" in err
