"""A failed bake says in one line what was wrong; tests/data/packer has the logs of such bakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder import bundle, workspace
from builder.errors import BuilderError, ConfigError, VerifyError
from builder.packer_run import BakeFailed

DATA = Path(__file__).parent.parent / "data" / "packer"

DIAGNOSES = {
    "host-disk-full": ("host-disk-full", "The disk of this machine filled up (`/srv/images/.work/ses-b1`)"),
    "no-xorriso": ("no-iso-tool", "Packer found no program that writes the cloud-init seed"),
    "qemu-died": ("qemu-died", "QEMU ended: invalid accelerator xen"),
    "not-bootable": (
        "not-bootable",
        "The base image is not bootable: the firmware found no boot loader on its disk",
    ),
    "kernel-panic": (
        "kernel-panic",
        "The base image's kernel panicked: VFS: Unable to mount root fs on unknown-block(0,0)",
    ),
    "no-package": ("no-package", "There is no package `postfxi` for this release"),
    "dpkg-lock": ("dpkg-lock", "Another program held dpkg's lock in the machine for too long"),
    "mirror-name": (
        "mirror-unreachable",
        "The machine cannot resolve the package mirror `mirror.example.invalid`",
    ),
    "mirror-refuses": ("mirror-unreachable", "The machine cannot reach the package mirror `127.0.0.1:9`"),
    "guest-disk-full": ("guest-disk-full", "The disk of the machine that is baked is full"),
    "cloud-init-degraded": ("cloud-init", "cloud-init was not happy with the bake: ('locale', Process"),
    "no-unit": ("no-unit", "There is no unit `relay-agent.service` in the image"),
    "postfix-refuses": ("postfix", "Postfix refuses its configuration: /etc/postfix/main.cf, line 12"),
    "other-script": ("script", "The script `configure.sh` failed: /run/relay-bake/scripts/configure.sh: 33"),
    "silent-script": ("silent-script", "The script `install.sh` failed and printed nothing"),
    "ssh-silent": ("silent", "The base image's kernel printed nothing on the serial console"),
    "ssh-no-datasource": ("no-datasource", "The machine booted but its cloud-init did not find the seed"),
    "ssh-no-cloud-init": ("no-cloud-init", "The machine booted but cloud-init never ran"),
    "ssh-key-refused": ("key-refused", "The machine runs SSH but does not know this bake's key"),
    "ssh-no-network": (
        "no-network",
        "The machine booted but got no network: Failed to start systemd-networkd",
    ),
    "ssh-slow": ("ssh-timeout", "The machine booted but did not answer SSH in time"),
    "aws-limit": ("aws-limit", "EC2 has no room for the instance (VcpuLimitExceeded)"),
    "aws-permission": (
        "aws-permission",
        "AWS does not allow a call that the bake needs ec2:CreateSecurityGroup",
    ),
}


@pytest.mark.parametrize("case", DIAGNOSES)
def test_recorded_failure_is_recognised(case: str) -> None:
    found = bundle.diagnose_folder(DATA / case)
    name, summary = DIAGNOSES[case]
    assert found.name == name
    assert found.summary.startswith(summary)
    assert "\n" not in found.summary
    assert found.hint
    assert found.evidence


def test_every_recorded_failure_is_tried() -> None:
    assert {path.name for path in DATA.iterdir()} == set(DIAGNOSES)


def test_catalogue_fills_its_sentences_from_its_own_groups() -> None:
    for known in bundle.read_catalogue():
        groups = {group.rstrip("2"): "x" for group in known.pattern.groupindex}
        assert known.summary.format_map(groups)
        assert known.hint.format_map(groups)
        assert set(known.also) | set(known.absent) | set(known.files) <= {
            "error.txt", "serial.log", "packer.log", "packer-debug.log", "script.log", "install.log",
            "apt-term.log",
        }  # fmt: skip


def test_unknown_failure_repeats_the_error_and_its_hint() -> None:
    found = bundle.diagnose({"error.txt": "It did not work\nmore\n"}, default_hint="Try again")
    assert (found.name, found.summary, found.hint) == ("unknown", "It did not work", "Try again")
    assert bundle.diagnose({"error.txt": "x"}).hint == ""
    assert bundle.diagnose({"error.txt": "x", "packer.log": ""}).hint == "Read `packer.log` from its end"
    assert bundle.diagnose({"error.txt": "x", "packer.log": "", "serial.log": ""}).hint == (
        "Read `packer.log` from its end, then `serial.log`"
    )


def test_mirror_that_failed_once_does_not_explain_a_later_step(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "install.log").write_text("Could not connect to mirror.example.invalid:80\n")
    (folder / "script.log").write_text("BUILDER-PHASE install\nE: nothing\n")
    assert bundle.diagnose_folder(folder).name == "mirror-unreachable"
    (folder / "script.log").write_text("BUILDER-PHASE configure\npostfix: fatal: no\n")
    assert bundle.diagnose_folder(folder).name == "postfix"


def test_failed_bake_is_kept_with_everything_that_was_seen(tmp_path: Path) -> None:
    error = BakeFailed(
        "Packer did not make an image (phase `install`, failed with exit code 1): Script exited",
        reasons=["Script exited"],
        phase="install",
        timings={"boot": 61.0, "install": 5.0},
    )
    with workspace.create(tmp_path, "ses", "b1") as work:
        work.serial_log.write_text("\x1b[0;32mOK\x1b[0m\r\n")
        work.packer_log.write_text(
            "    qemu.relay: BUILDER-PHASE install\n"
            "    qemu.relay: E: Unable to locate package postfxi\n"
            "    qemu.relay: BUILDER-DIAG begin cloud-init-status.json\n"
            '    qemu.relay: {"status": "running"}\n'
            "    qemu.relay: BUILDER-DIAG end\n"
            "==> qemu.relay: Provisioning step had errors: Running the cleanup provisioner, if present...\n"
        )
        told = bundle.keep(work, error)

    folder = tmp_path / ".failed/ses-b1/bundle"
    assert told.message == (
        "Image `ses` was not baked (phase `install`): There is no package `postfxi` for this release\n"
        "    script.log: E: Unable to locate package postfxi"
    )
    assert told.hint is not None
    assert str(folder) in told.hint
    assert sorted(path.name for path in folder.iterdir()) == [
        "DIAGNOSIS.txt", "cloud-init-status.json", "error.txt", "packer.log", "script.log", "serial.log",
    ]  # fmt: skip
    text = (folder / "DIAGNOSIS.txt").read_text()
    assert text.startswith("There is no package `postfxi` for this release\n\nWhat to do: ")
    assert "    boot       1 min 01 s\n    install    5.0 s\n" in text
    assert "    serial.log               the machine's serial console\n" in text
    assert (folder / "script.log").read_text().splitlines()[-1] == "E: Unable to locate package postfxi"


def test_every_mistake_of_a_list_is_told(tmp_path: Path) -> None:
    error = ConfigError("Packer template `mine`", ["no disk", "no network"])
    with (
        pytest.raises(BuilderError) as told,
        workspace.create(tmp_path, "ses", "b1") as work,
        bundle.kept(work),
    ):
        raise error
    assert told.value.message == (
        "Image `ses` was not baked: Packer template `mine`: 2 mistakes\n  - no disk\n  - no network"
    )
    folder = tmp_path / ".failed/ses-b1/bundle"
    assert told.value.hint == f"Everything that was seen: `{folder}`; begin with `DIAGNOSIS.txt`"
    assert "What to do" not in (folder / "DIAGNOSIS.txt").read_text()


def test_mistake_of_builder_goes_on_as_it_is_and_leaves_a_bundle(tmp_path: Path) -> None:
    with workspace.create(tmp_path, "ses", "b1") as work:
        work.packer_log.write_text("started\n")
        with pytest.raises(ZeroDivisionError) as told, bundle.kept(work):
            raise ZeroDivisionError("by us")
    folder = tmp_path / ".failed/ses-b1/bundle"
    assert str(folder) in "".join(told.value.__notes__)
    assert (folder / "packer.log").read_text() == "started\n"
    text = (folder / "error.txt").read_text()
    assert text.startswith("ZeroDivisionError: by us\n")
    assert "Traceback" in text


def test_interrupt_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        workspace.create(tmp_path, "ses", "b1") as work,
        bundle.kept(work),
    ):
        raise KeyboardInterrupt
    assert not (tmp_path / ".failed").exists()
    assert list((tmp_path / ".work").iterdir()) == []


def test_error_after_the_bake_is_kept_in_its_own_words(tmp_path: Path) -> None:
    with workspace.create(tmp_path, "ses", "b1") as work:
        told = bundle.keep(work, BuilderError("The image is not as it was baked", hint="See the report"))
    assert told.message == "Image `ses` was not baked: The image is not as it was baked"
    assert told.hint is not None
    assert told.hint.startswith("See the report\n")


def test_an_image_that_is_not_good_leads_to_what_its_relay_said(tmp_path: Path) -> None:
    with workspace.create(tmp_path, "ses", "b1") as work:
        # A bake that went well in the end: what apt first stumbled over is not why a check failed.
        work.packer_log.write_text("    qemu.relay: E: Unable to locate package postfxi\n")
        for boot, log in (("fresh", "serial.log"), ("second", "postfix.log")):
            (work.verify_logs / boot).mkdir(parents=True)
            (work.verify_logs / boot / log).write_text("said\n")
        told = bundle.keep(
            work, VerifyError("Image `ses` was baked but did not pass `verify`: `reboot`: gone")
        )
    folder = tmp_path / ".failed/ses-b1/bundle"
    assert told.message == "Image `ses` was baked but did not pass `verify`: `reboot`: gone"
    hint = "Read `postfix.log`, `agent.log` and `queue.json` in `verify/second`"
    assert told.hint is not None
    assert told.hint.splitlines()[0] == hint
    assert (folder / "verify/second/postfix.log").read_text() == "said\n"
    text = (folder / "DIAGNOSIS.txt").read_text()
    assert f"What to do: {hint}\n" in text
    assert "    verify                   the instances that were booted" in text
