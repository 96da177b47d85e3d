"""How long a bake takes against a naive one of the same content, from the same base, with the same Packer."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import harness
from builder import assets, base, base_build, base_store, packer, packer_template, process, workspace
from builder.bake import BakeRequest, bake
from builder.config import RelayConfig, load_config
from builder.launch import choose_accelerator
from builder.releases import get_release
from builder.render import render

NAIVE = Path(__file__).with_name("naive") / "naive.pkr.hcl"
_HOUR = 3600


def naive_bake(config: RelayConfig, start: base.Base, folder: Path) -> None:
    """Bake with cloud-init's `packages:` and Packer's defaults, in a folder that is deleted afterwards."""
    with workspace.create(folder, "naive", workspace.new_bake_id()) as work:
        files = render(config, get_release(start.release or ""))
        work.write({**files, **_seed(files["packages.txt"].split(), work.make_key())})
        work.pack_payload(packer_template.script_files(assets.folder("packer")))
        shutil.copy(NAIVE, work.path)
        (work.path / "seed").symlink_to(work.seed)
        values = {
            "base": str(start.path),
            "base_sha256": start.sha256,
            "output_directory": str(work.out),
            "accelerator": choose_accelerator().name,
        }
        (work.path / "naive.auto.pkrvars.json").write_text(json.dumps(values))
        with workspace.short_tmpdir(work) as tmp:
            process.run(
                [packer.find().path, "build", "-color=false", "."],
                cwd=work.path,
                env={"CHECKPOINT_DISABLE": "1", "TMPDIR": str(tmp), "PACKER_CACHE_DIR": str(tmp)},
                timeout_seconds=_HOUR,
            )


def our_bake(config: RelayConfig, start: base.Base, folder: Path, phases: list[dict[str, float]]) -> None:
    """Bake as `builder bake` does, without the verification that the naive one does not have."""
    request = BakeRequest(
        config=config, base=start.name, name="ours", images_dir=folder, force=True, profile="none"
    )
    _folder, record = bake(request)
    phases.append(record.timings)


def main() -> None:
    """Measure both in turns and report."""
    parser = harness.arguments(__doc__ or "", runs=2)
    parser.add_argument("--base", default="debian-12", help="the base, built when it is not in the cache")
    options = parser.parse_args()
    config = load_config(None, {"preset": "ses", "region": "us-east-1"})
    start = base_store.find(options.base, base_store.host_arch()) or base_build.build(options.base)
    phases: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(prefix="bench-", dir=base_store.cache_folder()) as folder:
        taken = harness.side_by_side(
            {
                "naive": partial(naive_bake, config, start, Path(folder)),
                "ours": partial(our_bake, config, start, Path(folder), phases),
            },
            runs=options.runs,
        )
    result: dict[str, Any] = {
        "bake_vs_naive": harness.ratio(taken["ours"], taken["naive"]),
        "ours_seconds": harness.summary(taken["ours"]),
        "naive_seconds": harness.summary(taken["naive"]),
        "phases_of_ours_seconds": phases[-1],
        "base": options.base,
    }
    harness.report(result, as_json=options.json)


def _seed(packages: list[str], public_key: str) -> dict[str, str]:
    user_data = {
        "users": [
            {
                "name": "bake",
                "sudo": "ALL=(ALL) NOPASSWD:ALL",
                "shell": "/bin/bash",
                "ssh_authorized_keys": [public_key],
            }
        ],
        "package_update": True,
        "packages": packages,
    }
    return {
        "seed/user-data": "#cloud-config\n" + json.dumps(user_data, indent=2) + "\n",
        "seed/meta-data": "instance-id: naive\nlocal-hostname: naive\n",
        "seed/network-config": 'version: 2\nethernets: {primary: {match: {name: "e*"}, dhcp4: true}}\n',
        "seed/vendor-data": "#cloud-config\n{}\n",
    }


if __name__ == "__main__":
    main()
