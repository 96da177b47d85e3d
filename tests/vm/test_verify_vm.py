"""A spoilt image fails the checks that are about what was spoilt; a good one survives every fault."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from builder import disk, process
from builder.bake import IMAGE
from builder.config import RelayConfig
from builder.record import ImageRecord
from builder.verify import faults, fresh, runner, trouble, verify
from builder.verify.check import Check

# A boot takes 40 s under software emulation, and minutes where other guests share the processors.
pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600)]


def test_an_open_relay_that_trusts_any_certificate_is_found_out(
    debian_12: tuple[Path, ImageRecord],
    config: RelayConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spoilt = _spoil(debian_12[0] / IMAGE, tmp_path)
    checks = (fresh.ready, fresh.relayed, fresh.closed_relay, trouble.wrong_certificate)
    monkeypatch.setattr(runner, "FIRST_BOOT", {"short": checks})
    report = verify(spoilt, config=config, profile="short", logs=tmp_path / "logs")
    failed = {check.name: check.evidence for check in report.failed}
    assert set(failed) == {"closed-relay", "wrong-certificate", "sealed: no-host-keys"}
    assert "expected 5xx before DATA" in failed["closed-relay"]
    assert "sent to the impostor" in failed["wrong-certificate"]
    assert "/etc/ssh/ssh_host_rsa_key" in failed["sealed: no-host-keys"]
    assert report.logs
    assert "postfix" in (Path(report.logs) / "fresh" / "postfix.log").read_text()


# What needs most of a booted image that a sandbox has not: units, the agent's files, killed daemons.
_FEW = {
    f"fault: {name}"
    for name in ("map-empty", "auth-required", "certificate-expired", "killed", "report-kept")
}


@pytest.mark.parametrize(
    "chosen",
    [
        pytest.param([check for check in faults.CHECKS if check.name in _FEW], id="few"),
        pytest.param(faults.CHECKS, id="all", marks=pytest.mark.releases),
    ],
)
def test_faults_are_survived_by_the_booted_image(
    chosen: Sequence[Check],
    debian_12: tuple[Path, ImageRecord],
    config: RelayConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The part that `verify --full` adds; the rest has been tried when the image was baked."""
    monkeypatch.setattr(runner, "FIRST_BOOT", {"full": (fresh.ready, *chosen)})
    monkeypatch.setattr(runner, "SECOND_BOOT", {"full": ()})
    report = verify(debian_12[0] / IMAGE, config=config, profile="full", logs=tmp_path / "logs")
    assert {check.name: check.evidence for check in report.failed} == {}
    tried = [check.name for check in report.checks if check.name.startswith("fault: ")]
    assert tried == [check.name for check in chosen]
    assert len(tried) >= len(_FEW)


def _spoil(image: Path, folder: Path) -> Path:
    """Return a copy of the image that relays for everybody, trusts any certificate and has a host key."""
    raw, spoilt = folder / "disk.raw", folder / "spoilt.qcow2"
    disk.write_raw(image, "qcow2", raw)
    root = disk.find_root(raw)
    main_cf = root.read("/etc/postfix/main.cf")
    for right, wrong in (
        # Postfix does not start without a `reject`, and sees through one after a plain `permit`.
        ("permit_mynetworks, reject", "check_client_access static:OK, reject"),
        ("smtp_tls_security_level = secure", "smtp_tls_security_level = encrypt"),
    ):
        assert right in main_cf
        main_cf = main_cf.replace(right, wrong)
    (folder / "main.cf").write_text(main_cf)
    (folder / "key").write_text("a host key of the build VM\n")
    script = (
        f"rm /etc/postfix/main.cf\nwrite {folder}/main.cf /etc/postfix/main.cf\n"
        f"write {folder}/key /etc/ssh/ssh_host_rsa_key\n"
    )
    process.run(["debugfs", "-w", "-f", "/dev/stdin", f"{raw}?offset={root.offset}"], stdin=script)
    process.run(["qemu-img", "convert", "-O", "qcow2", raw, spoilt], timeout_seconds=300)
    raw.unlink()
    return spoilt
