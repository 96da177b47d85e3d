from __future__ import annotations

import json
from pathlib import Path

import pytest
import trustme
import yaml

from builder.cli.render import write
from tests.unit.test_cli import run

SES = ("--preset", "ses", "--region", "eu-west-1")


def test_every_file_is_printed_with_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "render", *SES)

    assert (code, err) == (0, "")
    assert "==> root/etc/postfix/main.cf <==" in out
    assert "[email-smtp.eu-west-1.amazonaws.com]:587" in out


def test_the_files_are_written_and_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "rendered"

    code, printed, err = run(capsys, "render", *SES, "--out", str(out))

    written = sorted(str(path) for path in out.rglob("*") if path.is_file())
    assert code == 0
    assert printed.splitlines() == written
    assert err == f"Wrote {len(written)} files to {out}\n"


def test_rendering_twice_into_one_folder_is_fine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = run(capsys, "render", *SES, "--out", str(tmp_path / "rendered"))

    assert run(capsys, "render", *SES, "--out", str(tmp_path / "rendered")) == first


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("mine")

    code, _out, err = run(capsys, "render", *SES, "--out", str(tmp_path))

    assert code == 1
    assert "`thesis.txt`" in err
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["thesis.txt"]


def test_json_holds_the_same_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "render", *SES, "--out", str(tmp_path / "rendered"))
    _code, out, _err = run(capsys, "render", *SES, "--json")

    files = json.loads(out)
    assert files["root/etc/postfix/main.cf"] == (tmp_path / "rendered/root/etc/postfix/main.cf").read_text()


def test_an_instances_own_settings_become_its_user_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    boot = tmp_path / "boot.yaml"
    boot.write_text("networks: [10.20.0.0/16]\nhostname: relay-1.example.com\n")

    code, out, _err = run(capsys, "render", *SES, "--boot", str(boot), "--json")

    entry = yaml.safe_load(json.loads(out)["boot/user-data"])["write_files"][0]
    assert code == 0
    assert json.loads(entry["content"]) == {
        "schema": 1,
        "networks": ["10.20.0.0/16"],
        "hostname": "relay-1.example.com",
    }


def test_user_data_that_ec2_would_not_take_is_refused_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = trustme.CA().cert_pem.bytes().decode()
    bundle = "".join(trustme.CA().cert_pem.bytes().decode() for _authority in range(120))
    (tmp_path / "one.yaml").write_text(yaml.safe_dump({"upstream": {"ca_pem": one}}))
    (tmp_path / "bundle.yaml").write_text(yaml.safe_dump({"upstream": {"ca_pem": bundle}}))

    def render(boot: str) -> tuple[int, str, str]:
        return run(capsys, "render", *SES, "--boot", str(tmp_path / boot), "--out", str(tmp_path / "out"))

    code, _out, err = render("bundle.yaml")

    assert code == 1
    assert "EC2 takes 16384" in err
    assert "`upstream.ca_pem`" in err
    assert not (tmp_path / "out").exists()
    assert render("one.yaml")[0] == 0


def test_user_data_that_fits_only_when_packed_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    boot = tmp_path / "boot.yaml"
    many = [f"10.{number // 256}.{number % 256}.0/24" for number in range(1000)]
    boot.write_text(yaml.safe_dump({"networks": many}))

    code, _out, err = run(capsys, "render", *SES, "--boot", str(boot), "--out", str(tmp_path / "out"))

    assert code == 0
    assert "send it packed" in err


def test_a_mistake_in_an_instances_settings_names_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    boot = tmp_path / "boot.yaml"
    boot.write_text("netwrks: [10.20.0.0/16]\n")

    code, _out, err = run(capsys, "render", *SES, "--boot", str(boot))

    assert code != 0
    assert str(boot) in err
    assert "`networks`" in err


def test_a_flag_stands_over_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "relay.yaml"
    config.write_text("preset: ses\nregion: eu-west-1\n")

    _code, out, _err = run(capsys, "render", "--config", str(config), "--region", "us-east-1")

    assert "[email-smtp.us-east-1.amazonaws.com]:587" in out


def test_relay_yaml_of_this_folder_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "relay.yaml").write_text("preset: sendgrid\n")
    monkeypatch.chdir(tmp_path)

    code, out, _err = run(capsys, "render")

    assert code == 0
    assert "[smtp.sendgrid.net]:587" in out


def test_without_a_preset_the_usage_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    code, out, err = run(capsys, "render")

    assert (code, out) == (2, "")
    assert "`--preset`" in err


def test_all_mistakes_are_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "relay.yaml"
    config.write_text("preset: ses\nregion: nowhere-1\nnetworks: [10.0.0.0/33]\nhostnam: relay.example.com\n")

    code, _out, err = run(capsys, "render", "--config", str(config))

    assert code == 1
    assert all(mistake in err for mistake in ("`nowhere-1`", "`10.0.0.0/33`", "`hostnam`"))


def test_without_a_region_ses_gets_one_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "render", "--preset", "ses")

    assert (code, err) == (0, "Region us-east-1, as no `--region` names another\n")
    assert "[email-smtp.us-east-1.amazonaws.com]:587" in out

    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    _code, out, _err = run(capsys, "render", "--preset", "ses")
    assert "[email-smtp.eu-central-1.amazonaws.com]:587" in out


@pytest.mark.parametrize("was_there", [False, True])
def test_what_cannot_be_written_whole_leaves_what_was_there(tmp_path: Path, was_there: bool) -> None:
    out = tmp_path / "out"
    if was_there:
        write({"root/etc/a": "old"}, out)
    with pytest.raises(OSError, match="File name too long"):
        write({"root/etc/a": "new", "b" * 300: "no file system takes this name"}, out)
    assert out.exists() is was_there
    assert [path.read_text() for path in out.rglob("*") if path.is_file()] == ["old"] * was_there


def test_files_are_written_over_those_of_an_earlier_time(tmp_path: Path) -> None:
    for text in ("old", "new"):
        write({"root/etc/a": text, "packages.txt": text}, tmp_path / "out")
    files = {path.name: path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"a": "new", "packages.txt": "new"}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["packages.txt", "root"]
