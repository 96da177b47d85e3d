"""The cache of bases: only whole ones count, digests are not read twice, mounts are not followed."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from builder import base_store
from builder.base_store import Base
from builder.errors import BuilderError


def make_base(content: bytes = b"disk", *, name: str = "debian-12", made_at: str = "2026-11-22") -> Base:
    """Put a small base into the cache."""
    sha256 = hashlib.sha256(content).hexdigest()
    with base_store.work_folder("test") as work:
        image = work / base_store.IMAGE_NAME
        image.write_bytes(content)
        base = Base(name, image, sha256, len(content), "amd64", name, "built", "packages", made_at)
        return base_store.add(work, base, {"kernel": "6.1"})


def test_an_added_base_is_found_by_name_and_by_digest() -> None:
    base = make_base()
    assert base.path == base_store.bases_folder() / base.sha256 / "image.qcow2"
    assert base_store.find("debian-12", "amd64") == base
    assert base_store.find_digest(base.sha256) == base
    assert base_store.find("debian-12", "arm64") is None


def test_the_newest_base_of_a_name_is_the_one_found() -> None:
    make_base(b"old", made_at="2026-01-01T00:00:00Z")
    new = make_base(b"new", made_at="2026-02-01T00:00:00Z")
    assert base_store.find("debian-12", "amd64") == new
    assert len(base_store.cached_bases()) == 2


def test_adding_the_same_digest_again_replaces_it() -> None:
    make_base(made_at="2026-01-01T00:00:00Z")
    again = make_base(made_at="2026-02-01T00:00:00Z")
    assert base_store.cached_bases() == [again]


@pytest.mark.parametrize("record", ["", "{", "[]", '{"schema": 99}', '{"schema": 1}'])
def test_a_base_with_a_damaged_record_does_not_count(record: str) -> None:
    base = make_base()
    (base.path.parent / "base.json").write_text(record)
    assert base_store.cached_bases() == []


def test_a_base_without_its_image_does_not_count() -> None:
    base = make_base()
    base.path.unlink()
    assert base_store.cached_bases() == []
    assert base_store.find_digest(base.sha256) is None


def fail_half_way() -> None:
    with base_store.work_folder("test") as work:
        (work / "half").write_text("half")
        raise KeyboardInterrupt


def test_a_work_folder_that_fails_leaves_nothing() -> None:
    with pytest.raises(KeyboardInterrupt):
        fail_half_way()
    assert list(base_store.bases_folder().iterdir()) == []


def test_a_work_folder_of_a_killed_run_is_emptied_first() -> None:
    left = base_store.bases_folder() / ".work-test" / "root"
    left.mkdir(parents=True)
    with base_store.work_folder("test") as work:
        assert list(work.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bases").write_text("")
    monkeypatch.setenv("BUILDER_CACHE", str(tmp_path))
    with (
        pytest.raises(BuilderError, match="Cannot write to the cache folder") as caught,
        base_store.work_folder("x"),
    ):
        pass
    assert "BUILDER_CACHE" in (caught.value.hint or "")


def test_a_file_is_hashed_once_and_again_when_it_changed(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"one")
    first = base_store.file_sha256(path)
    assert first == hashlib.sha256(b"one").hexdigest()
    [memo] = (base_store.cache_folder() / "digests").iterdir()
    remembered = json.loads(memo.read_text())
    memo.write_text(json.dumps({**remembered, "sha256": "from the memo"}))
    assert base_store.file_sha256(path) == "from the memo"
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert base_store.file_sha256(path) == hashlib.sha256(b"two").hexdigest()


def test_a_damaged_memo_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"one")
    base_store.file_sha256(path)
    [memo] = (base_store.cache_folder() / "digests").iterdir()
    memo.write_text("{")
    assert base_store.file_sha256(path) == hashlib.sha256(b"one").hexdigest()


def test_a_folder_with_a_mount_below_is_not_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "root/proc").mkdir(parents=True)
    monkeypatch.setattr(base_store, "mounts_below", lambda folder: [folder / "root/proc"])
    with pytest.raises(BuilderError, match="still mounted"):
        base_store.remove_tree(tmp_path)
    assert (tmp_path / "root/proc").is_dir()


def test_mounts_of_this_machine_are_read() -> None:
    assert Path("/proc") in base_store.mounts_below(Path("/"))
    assert base_store.mounts_below(Path("/nonexistent")) == []


def test_the_record_of_a_base_has_no_path_of_this_machine() -> None:
    assert str(base_store.cache_folder()) not in json.dumps(make_base().record())
