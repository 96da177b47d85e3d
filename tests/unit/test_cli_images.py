"""The verbs around images and relays, as a user calls them; QEMU is a fake program."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import yaml

from builder import record as records
from builder import verify
from builder.bake import verify_again
from builder.cli import options
from builder.cli.options import instances_folder
from builder.record import Artifact, Base, ImageRecord, Inputs
from tests.unit.test_cli import run
from tests.unit.test_launch_guest import Order, image, order

__all__ = ["image", "order"]


@pytest.fixture
def baked(tmp_path: Path) -> Path:
    """An image that was baked and verified, as far as its record goes; returns its folder."""
    folder = tmp_path / "images" / "ses-debian-12"
    folder.mkdir(parents=True)
    disk = b"QFI\xfb" + bytes(96)
    (folder / "relay.qcow2").write_bytes(disk)
    inputs = Inputs(
        target="qemu", base="a" * 64, rendered="b" * 64, template="c" * 64, config="d" * 64, tools={}
    )
    record = ImageRecord(
        name="ses-debian-12",
        bake_id="20261122-1",
        key=inputs.key,
        status="verified",
        preset="ses",
        base=Base(name="debian-12", release="debian-12", digest="a" * 64, source="packages (built)"),
        inputs=inputs,
        artifact=Artifact(file="relay.qcow2", sha256=hashlib.sha256(disk).hexdigest(), size=100),
        tools={"packer": "1.6.6"},
        timings={"total": 185.0},
    )
    records.save(record, folder)
    return folder


def test_images_lists_what_was_baked(baked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _err = run(capsys, "images")

    assert code == 0
    heads, row = out.splitlines()
    assert heads.split() == ["IMAGE", "STATUS", "PRESET", "BASE", "BAKED", "SIZE"]
    assert row.split()[:4] == ["ses-debian-12", "verified", "ses", "debian-12"]


def test_one_image_is_shown_with_its_file_and_timings(
    baked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _err = run(capsys, "images", "ses-debian-12")

    assert code == 0
    assert f"{baked / 'relay.qcow2'}" in out
    assert "3 min 05 s" in out


def test_json_of_an_image_is_its_record(baked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _code, out, _err = run(capsys, "images", "ses-debian-12", "--json")

    assert ImageRecord.model_validate_json(out) == records.load(baked)


def test_an_image_is_found_by_name_folder_and_file(baked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = [run(capsys, "images", str(way)) for way in ("ses-debian-12", baked, baked / "relay.qcow2")]

    assert {code for code, _out, _err in shown} == {0}
    assert len({out for _code, out, _err in shown}) == 1


@pytest.mark.parametrize("spoil", ["folder", "text", "bytes"])
def test_a_spoilt_record_does_not_hide_the_others(
    spoil: str, baked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = baked.parent / "spoilt" / "record.json"
    record.parent.mkdir()
    if spoil == "folder":
        record.mkdir()
    else:
        record.write_bytes(b"{" if spoil == "text" else b"\xff\xfe")

    code, out, err = run(capsys, "images", "--json")

    assert code == 0
    assert [each["name"] for each in json.loads(out)] == [baked.name]
    assert str(record) in err
    assert run(capsys, "images", "spoilt")[0] == 1


@pytest.mark.parametrize("report", [{"a": 1}, {"checks": 5}, {"checks": ["x"]}])
def test_a_spoilt_report_says_how_to_get_a_new_one(
    report: dict[str, object], baked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = records.load(baked)
    records.save(record.model_copy(update={"verify": report}), baked)

    code, _out, err = run(capsys, "images", baked.name)

    assert code == 1
    assert f"builder verify {baked.name}" in err


def test_a_record_cannot_name_a_file_elsewhere(baked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = baked / "record.json"
    path.write_text(path.read_text().replace("relay.qcow2", "../../other.qcow2"))

    code, _out, err = run(capsys, "launch", baked.name)

    assert code == 1
    assert "is not a record that this builder can read: artifact.file" in err


def test_a_folder_with_files_is_not_taken_for_logs_that_may_be_deleted(
    baked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()

    code, _out, err = run(capsys, "verify", baked.name, "--logs", str(tmp_path / "mine"))

    assert code == 1
    assert "is not empty" in err
    assert (tmp_path / "mine" / "thesis.tex").exists()


@pytest.mark.parametrize("name", ["a/b", "../x", "Ses", "-x", "x" * 64])
def test_a_name_that_no_image_can_have_is_refused_before_anything_is_looked_for(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _out, err = run(
        capsys, "bake", "--preset", "gmail", "--base", "nothing", f"--name={name}", "--dry-run"
    )

    assert code == 1
    assert f"`{name}` cannot be the name of an image" in " ".join(err.split())


def test_a_private_key_never_gets_into_the_user_data(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = tmp_path / "id_ed25519"
    key.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2\n-----END OPENSSH PRIVATE KEY-----\n")
    key.with_name("id_ed25519.pub").write_text("ssh-ed25519 AAAA me\n")

    code, _out, err = run(capsys, "launch", str(image), "--ssh-key", str(key))

    assert code == 1
    assert f"`{key}` is not a public key" in err
    assert f"--ssh-key {key}.pub" in err
    assert "hunter2" not in err


def test_no_image_is_no_error_and_says_how_to_make_one(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "images")

    assert (code, out) == (0, "")
    assert "`builder bake --preset ses`" in err


def test_an_unknown_image_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("images", "verify", "launch"):
        code, _out, err = run(capsys, verb, "no-such-image")

        assert code == 1
        assert "no-such-image" in err
        assert "builder images" in err


def test_a_launched_relay_is_listed_stopped_started_and_deleted(
    order: Order, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    order()
    code, out, _err = run(capsys, "launch", str(image), "--accelerator", "tcg", "--json")
    launched = json.loads(out)
    assert code == 0

    _code, out, _err = run(capsys, "instances", "list", "--json")
    assert json.loads(out) == [launched]

    assert run(capsys, "instances", "stop", launched["id"])[0] == 0
    _code, out, _err = run(capsys, "instances", "list")
    assert launched["id"] in out
    assert "stopped" in out

    code, out, _err = run(capsys, "instances", "start", launched["id"][:6])
    assert code == 0
    assert launched["smtp"] in out

    assert run(capsys, "instances", "delete", launched["id"])[0] == 0
    assert run(capsys, "instances", "list")[1] == ""


def test_launch_says_where_it_listens_and_how_to_stop_it(
    order: Order, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    order()

    code, out, err = run(capsys, "launch", str(image), "--accelerator", "tcg")

    shown = dict(line.split(None, 1) for line in out.splitlines())
    assert code == 0
    assert shown["smtp"].startswith("127.0.0.1:")
    assert shown["stop"] == f"builder instances stop {shown['id']}"
    assert "ready" in err
    run(capsys, "instances", "delete", shown["id"])


def test_a_launch_tells_the_relay_how_many_share_the_account(
    order: Order, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    order()

    code, out, _err = run(capsys, "launch", str(image), "--accelerator", "tcg", "--fleet-size", "4", "--json")

    assert code == 0
    launched = json.loads(out)["id"]
    user_data = yaml.safe_load((instances_folder() / launched / "seed/user-data").read_text())
    assert json.loads(user_data["write_files"][0]["content"]) == {"schema": 1, "fleet_size": 4}
    run(capsys, "instances", "delete", launched)


def test_launch_refuses_a_number_of_relays_that_is_none(
    image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _out, err = run(capsys, "launch", str(image), "--fleet-size", "many")

    assert code == 1
    assert "`fleet_size` is `many`, expected a whole number from 1 to 10000, or `auto_scaling`" in " ".join(
        err.split()
    )


def test_launch_refuses_a_network_that_lets_strangers_relay(
    image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _out, err = run(capsys, "launch", str(image), "--network", "0.0.0.0/0")

    assert code == 1
    assert "`0.0.0.0/0`" in err


def test_launch_refuses_an_endpoint_that_the_agent_would_refuse(
    image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _out, err = run(capsys, "launch", str(image), "--endpoint", "not a url", "--region", " ")

    assert code == 1
    assert "`endpoint` is `not a url`, expected" in err
    assert "`region` is ` `, expected" in err


def test_launch_refuses_an_image_that_has_failed_its_verification(
    baked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records.save(records.load(baked).model_copy(update={"status": "failed"}), baked)
    code, _out, err = run(capsys, "launch", "ses-debian-12")

    assert code == 1
    assert "has failed its verification" in err
    assert str(baked / "relay.qcow2") in err


@pytest.mark.parametrize("verb", [["launch", "ses-debian-12"], ["verify", "ses-debian-12", "--short"]])
def test_an_image_that_is_not_as_it_was_baked_is_neither_launched_nor_verified(
    baked: Path, verb: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with (baked / "relay.qcow2").open("r+b") as stream:
        stream.seek(50)
        stream.write(b"10 bytes  ")
    code, _out, err = run(capsys, *verb)

    assert code == 1
    assert "Image `ses-debian-12` is not as it was baked" in " ".join(err.split())
    assert records.load(baked).status == "verified"


def test_an_image_that_nobody_has_tried_is_warned_about(
    baked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records.save(records.load(baked).model_copy(update={"status": "baked"}), baked)

    assert options.find_image("ses-debian-12") == baked / "relay.qcow2"
    assert "was never tried; `builder verify ses-debian-12`" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize(
    ("asked", "passes", "kept"),
    [("short", True, "full"), ("full", True, "full"), ("short", False, "short")],
)
def test_a_pass_does_not_replace_the_report_of_a_more_thorough_one(
    baked: Path, monkeypatch: pytest.MonkeyPatch, asked: records.Profile, passes: bool, kept: str
) -> None:
    def report(profile: records.Profile, started: str) -> verify.VerifyReport:
        check = verify.CheckResult("ready", "It becomes ready", passes, "seen")
        return verify.VerifyReport("relay.qcow2", profile, "tcg", started, 1.0, (check,))

    record = records.load(baked)
    earlier = report("full", "before").to_json()
    records.save(record.model_copy(update={"status": "verified", "verify": earlier}), baked)
    (baked / records.CONFIG).write_text('{"preset": "ses", "region": "us-east-1"}')
    monkeypatch.setattr(verify, "verify", lambda *_, **__: report(asked, "now"))
    verify_again(baked, profile=asked, accelerator="tcg")
    after = records.load(baked)
    assert after.verify is not None
    assert after.verify["profile"] == kept
    assert after.verify["started"] == ("before" if asked == "short" and passes else "now")
    assert after.status == ("verified" if passes else "failed")
