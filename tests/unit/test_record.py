"""The record is written whole, read strictly, and found again by its key."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from builder import record
from builder.errors import BuilderError
from builder.record import Artifact, Base, ImageRecord, Inputs, Package

INPUTS = Inputs(target="qemu", base="1" * 64, rendered="2" * 64, template="3" * 64, config="4" * 64, tools={})


DISK = b"disk"
SHA256 = hashlib.sha256(DISK).hexdigest()


def make(name: str = "ses", inputs: Inputs = INPUTS, **changes: object) -> ImageRecord:
    fields = {
        "name": name,
        "bake_id": "b1",
        "key": inputs.key,
        "status": "verified",
        "preset": "ses",
        "base": Base(name="debian-12", release="debian-12", digest="1" * 64, source="built"),
        "inputs": inputs,
        "artifact": Artifact(file="relay.qcow2", sha256=SHA256, size=4),
    }
    return ImageRecord.model_validate({**fields, **changes})


def put(images: Path, made: ImageRecord, disk: bytes | None = DISK) -> Path:
    folder = images / made.name
    folder.mkdir(parents=True)
    if disk is not None:
        (folder / "relay.qcow2").write_bytes(disk)
    record.save(made, folder)
    return folder


def test_record_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    made = make(
        packages=(Package(name="postfix", version="3.7.11-0+deb12u1", arch="amd64"),), timings={"boot": 61.5}
    )
    folder = put(tmp_path, made)
    assert record.load(folder) == made
    assert json.loads((folder / "record.json").read_text())["schema_version"] == 1
    assert sorted(path.name for path in folder.iterdir()) == ["record.json", "relay.qcow2"]


@pytest.mark.parametrize("field", ["base", "rendered", "template", "config", "target", "tools"])
def test_key_changes_with_each_input(field: str) -> None:
    other = {"target": "ami", "tools": {"packer": "1.16.0"}}.get(field, "9" * 64)
    assert INPUTS.model_copy(update={field: other}).key != INPUTS.key


def test_image_is_found_by_key_and_name(tmp_path: Path) -> None:
    for name in ("one", "two"):
        put(tmp_path, make(name))
    found = {name: record.find(tmp_path, INPUTS.key, name=name) for name in (None, "one", "two", "three")}
    assert {name: each[0].name for name, each in found.items() if each} == {
        None: "one", "one": "one", "two": "two",
    }  # fmt: skip


def test_key_does_not_depend_on_the_order_of_tools() -> None:
    one = INPUTS.model_copy(update={"tools": {"a": "1", "b": "2"}})
    other = INPUTS.model_copy(update={"tools": {"b": "2", "a": "1"}})
    assert one.key == other.key


def test_image_of_the_same_inputs_is_found(tmp_path: Path) -> None:
    folder = put(tmp_path, make())
    put(tmp_path, make("other", INPUTS.model_copy(update={"config": "9" * 64})))
    found = record.find(tmp_path, INPUTS.key)
    assert found is not None
    assert found[0] == folder


@pytest.mark.parametrize("disk", [None, b"cut", b"longer"])
def test_image_whose_disk_is_missing_or_of_another_size_is_not_found(
    tmp_path: Path, disk: bytes | None
) -> None:
    put(tmp_path, make(), disk)
    assert record.find(tmp_path, INPUTS.key) is None


def test_image_whose_disk_was_changed_is_told_and_not_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = put(tmp_path, make(), b"dusk")
    assert record.find(tmp_path, INPUTS.key) is None
    said = " ".join(capsys.readouterr().err.split())
    assert f"`{folder / 'relay.qcow2'}` has sha256 {hashlib.sha256(b'dusk').hexdigest()}" in said
    assert f"its record says {SHA256}" in said
    with pytest.raises(BuilderError, match="is not as it was baked") as caught:
        record.require_whole(record.load(folder), folder)
    assert "builder bake" in str(caught.value.hint)


def test_an_image_that_was_just_made_is_not_read_again(tmp_path: Path) -> None:
    folder = put(tmp_path, make())
    record.remember(make(), folder)
    disk = folder / "relay.qcow2"
    times = disk.stat()
    # Other bytes of the same file: only one who reads it can tell.
    with disk.open("r+b") as stream:
        stream.write(b"dusk")
    os.utime(disk, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert record.find(tmp_path, INPUTS.key) is not None


def test_the_image_of_the_asked_name_is_found_beside_others_of_the_same_inputs(tmp_path: Path) -> None:
    put(tmp_path, make("first"))
    second = put(tmp_path, make("second"))
    assert record.find(tmp_path, INPUTS.key, name="second") == (second, record.load(second))
    assert record.find(tmp_path, INPUTS.key, name="third") is None


def test_the_second_look_is_for_one_name_and_says_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = put(tmp_path, make())
    (put(tmp_path, make("broken")) / "record.json").write_text("{")
    assert record.find_named(tmp_path, "ses", INPUTS.key) == (folder, record.load(folder))
    assert record.find_named(tmp_path, "ses", "another key") is None
    assert record.find_named(tmp_path, "broken", INPUTS.key) is None
    assert record.find_named(tmp_path, "nothing", INPUTS.key) is None
    assert capsys.readouterr().err == ""


def test_failed_image_and_hidden_folders_are_not_found(tmp_path: Path) -> None:
    put(tmp_path, make("bad", status="failed"))
    put(tmp_path / ".failed", make())
    assert record.find(tmp_path, INPUTS.key) is None
    assert [folder.name for folder, _ in record.images(tmp_path)] == ["bad"]


def test_ami_needs_no_file(tmp_path: Path) -> None:
    put(tmp_path, make(artifact=Artifact(ami_ids={"eu-west-1": "ami-1"})), None)
    assert record.find(tmp_path, INPUTS.key) is not None


def test_missing_image_names_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(BuilderError, match=f"There is no image `nothing` in `{tmp_path}`"):
        record.load(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "Invalid JSON"),
        ('{"name": "ses"', "Invalid JSON"),
        ("[]", "Input should be an object"),
        ('{"schema_version": 2}', "schema_version: Input should be 1"),
    ],
)
def test_record_that_cannot_be_read_says_why_and_what_to_do(tmp_path: Path, text: str, why: str) -> None:
    folder = put(tmp_path, make())
    (folder / "record.json").write_text(text)
    with pytest.raises(BuilderError, match=f"is not a record that this builder can read: {why}") as error:
        record.load(folder)
    assert error.value.hint is not None
    assert "--force" in error.value.hint


def test_one_record_that_cannot_be_read_does_not_hide_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (put(tmp_path, make("broken")) / "record.json").write_text("{")
    put(tmp_path, make("whole"))
    assert [made.name for _, made in record.images(tmp_path)] == ["whole"]


def test_half_written_record_leaves_the_older_one(tmp_path: Path) -> None:
    folder = put(tmp_path, make())
    (folder / ".record.json.partial").write_text("{")
    assert record.load(folder) == make().model_copy(update={"created": record.load(folder).created})


def test_packages_are_read_from_dpkg() -> None:
    text = (
        "adduser\t3.134\tall\t\n"
        "libssl3\t3.0.15-1~deb12u1\tamd64\topenssl\n"
        "libc6\t2.36-9\tamd64\tglibc (2.36-9+x)\n"
        "apt\t2.6.1\tamd64\n\n"
    )
    assert record.parse_packages(text) == (
        Package(name="adduser", version="3.134", arch="all"),
        Package(name="libssl3", version="3.0.15-1~deb12u1", arch="amd64", source="openssl"),
        Package(name="libc6", version="2.36-9", arch="amd64", source="glibc"),
        Package(name="apt", version="2.6.1", arch="amd64"),
    )


def test_digest_of_files_is_of_names_and_contents(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("x")
    assert (
        record.digest_of({"a": path})
        == record.digest_of({"a": "x"})
        == record.digest_of(record.files_of_folder(tmp_path))
    )
    assert record.digest_of({"a": "x"}) != record.digest_of({"b": "x"})
    assert record.digest_of({"a": "x", "b": ""}) != record.digest_of({"a": "", "b": "x"})


def test_digest_of_values_does_not_depend_on_their_order() -> None:
    assert record.digest_of_values({"a": 1, "b": [2]}) == record.digest_of_values({"b": [2], "a": 1})


def test_file_is_described_by_digest_and_size(tmp_path: Path) -> None:
    path = tmp_path / "relay.qcow2"
    path.write_bytes(b"disk")
    digest = "1044dec7206e8d7c9fbb4ae8f766668406d2567fc7fc1a160a9d4700fcf8f8e9"
    assert record.describe_file(path) == Artifact(file="relay.qcow2", sha256=digest, size=4)


@pytest.mark.parametrize(
    ("passed", "asked", "is_enough"),
    [
        ("standard", "short", True),
        ("standard", "standard", True),
        ("short", "standard", False),
        ("standard", "full", False),
    ],
)
def test_an_image_is_proved_for_what_it_has_passed_and_less(
    passed: str, asked: record.Profile, is_enough: bool
) -> None:
    report = {"profile": passed, "verifier": record.verifier()}
    assert record.is_proved(make(verify=report), asked) is is_enough


@pytest.mark.parametrize("verifier", [{}, {"verifier": "0" * 64}], ids=["before there was one", "other code"])
def test_an_image_that_other_checks_were_passed_by_is_not_proved(verifier: dict[str, str]) -> None:
    assert not record.is_proved(make(verify={"profile": "full", **verifier}), "short")


def test_the_verifier_is_the_code_of_checks_cases_and_stand_ins() -> None:
    package = Path(record.__file__).parent
    assert [name for name in record._VERIFIER if list((package / name).glob("*.py"))] == [
        "verify",
        "conformance",
        "standin",
    ]


def test_an_image_that_nobody_has_tried_is_not_proved() -> None:
    assert not record.is_proved(make(status="baked"), "short")
    assert not record.is_proved(
        make(status="failed", verify={"profile": "full", "verifier": record.verifier()}), "short"
    )


@pytest.mark.parametrize(("text", "said"), [(None, "is not there"), ("{", "cannot"), ("{}", "cannot")])
def test_a_configuration_that_is_missing_or_spoilt_is_an_error_with_the_next_step(
    tmp_path: Path, text: str | None, said: str
) -> None:
    if text is not None:
        (tmp_path / record.CONFIG).write_text(text)
    with pytest.raises(BuilderError, match=said) as caught:
        record.load_config(tmp_path)
    assert "--force" in str(caught.value.hint)
