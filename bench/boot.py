"""Power-on to ready of the golden image, against the bare base's SSH and the same relay installed at boot."""

from __future__ import annotations

import base64
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import yaml

from bench import harness
from builder import assets, base, base_build, base_store, packer_template, workspace
from builder.bake import IMAGE, BakeRequest, bake
from builder.config import RelayConfig, load_config
from builder.launch import launch_qemu
from builder.releases import get_release
from builder.render import render
from builder.verify.world import boot_user_data, make_stand_ins, sample_logins

_DIR = "/opt/relay-install"
_HALF_AN_HOUR = 1800


def golden(image: Path, config: RelayConfig) -> float:
    """Boot the image fresh; seconds until it has proved its credential and opened port 25."""
    with make_stand_ins(config, sample_logins(config)) as stand_ins:
        user_data = boot_user_data(config, stand_ins)
        with launch_qemu(image, user_data=user_data) as guest:
            return guest.wait_ready(timeout_seconds=_HALF_AN_HOUR)


def bare(start: base.Base) -> float:
    """Boot the base with nothing but a user; seconds until a login works."""
    with launch_qemu(start.path, user_data="#cloud-config\n{}\n", login=True) as guest:
        return guest.wait_ssh(timeout_seconds=_HALF_AN_HOUR)


def installed_at_boot(start: base.Base, config: RelayConfig, payload: Path) -> float:
    """Boot the base with user data that installs and configures the same relay; seconds until it is ready."""
    with make_stand_ins(config, sample_logins(config)) as stand_ins:
        user_data = _install_user_data(config, start, payload, boot_user_data(config, stand_ins))
        with launch_qemu(start.path, user_data=user_data) as guest:
            return guest.wait_ready(timeout_seconds=_HALF_AN_HOUR)


def _install_user_data(config: RelayConfig, start: base.Base, payload: Path, launch: str) -> str:
    """Return launch user data that also installs: what one does without a golden image."""
    content: dict[str, Any] = yaml.safe_load(launch)
    packed = base64.b64encode(payload.read_bytes()).decode()
    files = render(config, get_release(start.release or ""))
    content["package_update"] = True
    # There is no nft before the packages are installed.
    redirects = content.pop("bootcmd")
    content["packages"] = files["packages.txt"].split()
    content.setdefault("write_files", []).append(
        {"path": f"{_DIR}/payload.tar", "encoding": "b64", "content": packed}
    )
    content["runcmd"] = [
        ["tar", "-C", _DIR, "-xf", f"{_DIR}/payload.tar"],
        ["sh", f"{_DIR}/scripts/configure.sh", _DIR],
        ["systemctl", "daemon-reload"],
        ["systemctl", "restart", "nftables.service", "postfix.service"],
        *redirects,
        ["systemctl", "start", "--no-block", "relay-agent.service"],
    ]
    return "#cloud-config\n" + json.dumps(content)


def make_payload(config: RelayConfig, start: base.Base, folder: Path) -> Path:
    """Write the archive that a bake would upload."""
    work = workspace.Workspace(folder, "payload", workspace.new_bake_id())
    work.rendered.mkdir(parents=True)
    work.write(render(config, get_release(start.release or "")))
    return work.pack_payload(packer_template.script_files(assets.folder("packer")))


def main() -> None:
    """Measure all three in turns and report."""
    parser = harness.arguments(__doc__ or "", runs=3)
    parser.add_argument("--base", default="debian-12", help="the base, built when it is not in the cache")
    options = parser.parse_args()
    config = load_config(None, {"preset": "ses", "region": "us-east-1"})
    start = base_store.find(options.base, base_store.host_arch()) or base_build.build(options.base)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=base_store.cache_folder()) as name:
        folder = Path(name)
        # The image of `make demo`, where there is one.
        image, _record = bake(BakeRequest(config=config, base=options.base, profile="none"))
        payload = make_payload(config, start, folder)
        taken: dict[str, list[float]] = {"bare_ssh": [], "golden_ready": [], "install_at_boot_ready": []}
        for turn in range(options.runs):
            taken["bare_ssh"].append(bare(start))
            taken["golden_ready"].append(golden(image / IMAGE, config))
            taken["install_at_boot_ready"].append(installed_at_boot(start, config, payload))
            harness.note(
                f"run {turn + 1} of {options.runs}: " + json.dumps({k: v[-1] for k, v in taken.items()})
            )
    result: dict[str, Any] = {
        "ready_vs_bare_ssh": harness.ratio(taken["golden_ready"], taken["bare_ssh"]),
        "install_at_boot_vs_ready": harness.ratio(taken["install_at_boot_ready"], taken["golden_ready"]),
        **{f"{name}_seconds": harness.summary(values) for name, values in taken.items()},
        "base": options.base,
    }
    harness.report(result, as_json=options.json)


if __name__ == "__main__":
    main()
