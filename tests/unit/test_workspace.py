"""An image appears whole or not at all, and two bakes of one name do not meet."""

from __future__ import annotations

import errno
import hashlib
import subprocess
import sys
import tarfile
from contextlib import suppress
from pathlib import Path

import pytest

from builder import workspace
from builder.errors import BuilderError
from builder.workspace import Workspace

FILES = {
    "root/etc/postfix/main.cf": "compatibility_level = 3.6\n",
    "root/usr/sbin/relayctl": "#!/bin/sh\n",
    "packages.txt": "postfix\n",
    "seed/user-data": "#cloud-config\n",
    "boot/user-data": "#cloud-config\n",
}


def images(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("ses"))


def bake(folder: Path, name: str, text: str, bake_id: str = "b1") -> None:
    with workspace.create(folder, name, bake_id) as work:
        (work.path / "record.json").write_text(text)
        work.finish()


def test_finished_bake_becomes_the_image(tmp_path: Path) -> None:
    with workspace.create(tmp_path, "ses", "b1") as work:
        work.write(FILES)
        (work.path / "out").mkdir()
        (work.path / "id_ed25519").write_text("secret")
        assert images(tmp_path) == []
        folder = work.finish()
    assert folder == tmp_path / "ses"
    assert (folder / "rendered/root/etc/postfix/main.cf").read_text() == "compatibility_level = 3.6\n"
    assert not (folder / "out").exists()
    assert not (folder / "id_ed25519").exists()


def test_newer_bake_replaces_the_image(tmp_path: Path) -> None:
    bake(tmp_path, "ses", "old")
    bake(tmp_path, "ses", "new")
    assert (tmp_path / "ses/record.json").read_text() == "new"
    assert not (tmp_path / ".replaced/ses").exists()


def test_older_image_comes_back_when_the_swap_was_cut_short(tmp_path: Path) -> None:
    bake(tmp_path, "ses", "old")
    (tmp_path / ".replaced").mkdir(exist_ok=True)
    (tmp_path / "ses").rename(tmp_path / ".replaced/ses")
    with workspace.create(tmp_path, "ses", "b2"):
        assert (tmp_path / "ses/record.json").read_text() == "old"


def test_bake_that_neither_finished_nor_failed_leaves_nothing(tmp_path: Path) -> None:
    with suppress(KeyboardInterrupt), workspace.create(tmp_path, "ses", "b1") as work:
        work.write(FILES)
        raise KeyboardInterrupt
    assert images(tmp_path) == []
    assert list((tmp_path / ".work").iterdir()) == []


def test_what_killed_bakes_left_is_cleared_by_the_next_bake(tmp_path: Path) -> None:
    for left in ("ses-b0", "ses-2026-b0", "gmail-b0"):
        (tmp_path / ".work" / left).mkdir(parents=True)
    with workspace.create(tmp_path, "ses", "b1"):
        assert [path.name for path in (tmp_path / ".work").iterdir()] == ["ses-b1"]


def test_a_folder_that_cannot_be_made_names_the_variable(tmp_path: Path) -> None:
    (tmp_path / "images").touch()
    with pytest.raises(BuilderError, match="Cannot make the folder `.*/images/.locks`: ") as caught:
        workspace.create(tmp_path / "images", "ses", "b1").__enter__()
    assert "BUILDER_IMAGES" in (caught.value.hint or "")


def test_the_workspace_of_another_bake_at_work_is_left_alone(tmp_path: Path) -> None:
    with workspace.create(tmp_path, "ses-2026", "b0"), workspace.create(tmp_path, "ses", "b1"):
        assert sorted(path.name for path in (tmp_path / ".work").iterdir()) == ["ses-2026-b0", "ses-b1"]


def test_failed_bake_is_kept_apart_without_key_and_disks(tmp_path: Path) -> None:
    with workspace.create(tmp_path, "ses", "b1") as work:
        for name in ("id_ed25519", "start.qcow2", "packer.log"):
            (work.path / name).write_text("x")
        kept = work.fail()
    assert sorted(path.name for path in kept.iterdir()) == ["packer.log", "rendered"]
    assert images(tmp_path) == []


def test_only_the_last_three_failures_of_a_name_are_kept(tmp_path: Path) -> None:
    for name, bake_id in [("ses-x", "b0"), *(("ses", f"b{number}") for number in range(5))]:
        with workspace.create(tmp_path, name, bake_id) as work:
            work.fail()
    assert images(tmp_path / ".failed") == ["ses-b2", "ses-b3", "ses-b4", "ses-x-b0"]


def test_second_bake_of_a_name_says_who_holds_it(tmp_path: Path) -> None:
    with (
        workspace.create(tmp_path, "ses", "b1"),
        pytest.raises(
            BuilderError, match=r"Image `ses` is being baked by process \d+ since \d\d:\d\d"
        ) as error,
        workspace.create(tmp_path, "ses", "b2"),
    ):
        pass
    assert error.value.hint is not None
    assert "--wait" in error.value.hint


def test_bake_of_another_name_is_not_held_up(tmp_path: Path) -> None:
    with workspace.create(tmp_path, "ses", "b1"), workspace.create(tmp_path, "ses-x", "b2") as work:
        assert work.path.is_dir()


@pytest.mark.allow_programs(Path(sys.executable).name)
def test_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    code = (
        "import os, sys, pathlib\nfrom builder import workspace\n"
        "with workspace.create(pathlib.Path(sys.argv[1]), 'ses', 'b1'):\n    os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], check=False)
    assert done.returncode == -9
    with workspace.create(tmp_path, "ses", "b2") as work:
        assert [path.name for path in (tmp_path / ".work").iterdir()] == [work.path.name]


@pytest.mark.parametrize("name", ["", "-x", "Ses", "a/b", "..", "x" * 64, "a b"])
def test_name_that_will_not_do_is_refused(tmp_path: Path, name: str) -> None:
    with (
        pytest.raises(BuilderError, match="cannot be the name of an image"),
        workspace.create(tmp_path, name, "b1"),
    ):
        pass


def test_rendered_file_cannot_leave_the_workspace(tmp_path: Path) -> None:
    with (
        workspace.create(tmp_path, "ses", "b1") as work,
        pytest.raises(BuilderError, match="would be outside"),
    ):
        work.write({"../../x": "x"})


def test_payload_has_root_packages_and_extras_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    script = tmp_path / "install.sh"
    script.write_text("#!/bin/sh\n")
    digests = []
    members = {}
    for bake_id in ("b1", "b2"):
        with workspace.create(tmp_path / "images", "ses", bake_id) as work:
            work.write(FILES)
            work.pack_payload({"scripts/install.sh": script})
            digests.append(hashlib.sha256(work.payload.read_bytes()).hexdigest())
            with tarfile.open(work.payload) as archive:
                members = {
                    member.name: (oct(member.mode), member.uname) for member in archive if member.isfile()
                }
    assert digests[0] == digests[1]
    assert members == {
        "packages.txt": ("0o644", "root"),
        "root/etc/postfix/main.cf": ("0o644", "root"),
        "root/usr/sbin/relayctl": ("0o755", "root"),
        "scripts/install.sh": ("0o644", "root"),
    }


@pytest.mark.allow_programs("ssh-keygen")
def test_key_is_private_and_can_be_dropped(tmp_path: Path) -> None:
    with workspace.create(tmp_path, "ses", "b1") as work:
        public = work.make_key()
        assert public.startswith("ssh-ed25519 ")
        assert public.endswith(" bake-b1")
        assert oct(work.key.stat().st_mode & 0o777) == "0o600"
        work.drop_key()
        assert not work.key.exists()
        assert not work.key.with_suffix(".pub").exists()


def test_missing_space_is_told_before_work_begins(tmp_path: Path) -> None:
    with pytest.raises(BuilderError, match=r"GB free; 1000000000\.0 GB are needed to bake") as error:
        workspace.require_space(tmp_path / "not/there/yet", 10**18, to="bake")
    assert error.value.hint is not None
    assert "BUILDER_IMAGES" in error.value.hint


def test_full_disk_is_an_error_that_says_where(tmp_path: Path) -> None:
    with (
        pytest.raises(BuilderError, match=f"The disk that holds `{tmp_path}` is full"),
        workspace.no_space(tmp_path),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_other_errors_of_the_system_are_left_alone(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), workspace.no_space(tmp_path):
        raise PermissionError(errno.EACCES, "no")


def test_bake_ids_sort_by_time_and_have_no_hyphen() -> None:
    made = workspace.new_bake_id()
    assert "-" not in made
    assert made.startswith("20")


def test_temporary_folder_is_inside_where_its_path_is_short(tmp_path: Path) -> None:
    work = Workspace(Path("/i"), "ses", "b1")
    assert len(str(work.path / "tmp")) < 70
    with workspace.create(tmp_path / ("x" * 80), "ses", "b1") as far, workspace.short_tmpdir(far) as folder:
        assert not folder.is_relative_to(far.path)
