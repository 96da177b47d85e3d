"""What goes into a machine that is baked, on QEMU and EC2 alike, and the bake key that stands for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from builder import __version__, packer_template
from builder import record as records
from builder.config import RelayConfig
from builder.render.bake import render_bake_seed
from builder.workspace import Workspace


def describe(
    target: Literal["qemu", "ami"],
    *,
    base: str,
    files: Mapping[str, str],
    template: Path,
    config: RelayConfig,
) -> records.Inputs:
    """Return all that decides an image, as digests; `base` is one already, `files` are the rendered ones.

    Errors: BuilderError when the template lacks one of its scripts.
    """
    # The key pair and the instance id are new each time and are not in the image.
    scripts = packer_template.script_files(template)
    seed = _seed(files, scripts, public_key="-", instance_id="-")
    return records.Inputs(
        target=target,
        base=base,
        rendered=records.digest_of({**files, **seed}),
        template=records.digest_of({**records.files_of_folder(template), **scripts}),
        config=records.digest_of_values(config.model_dump(mode="json")),
        tools={"builder": __version__},
    )


def fill(work: Workspace, *, files: Mapping[str, str], template: Path, config: RelayConfig) -> None:
    """Write all that goes into the machine, and the configuration it comes from; a person can open each file.

    Makes the key of this run. Errors: BuilderError.
    """
    scripts = packer_template.script_files(template)
    seed = _seed(files, scripts, public_key=work.make_key(), instance_id=f"bake-{work.bake_id}")
    work.write({**files, **seed})
    work.pack_payload(scripts)
    (work.path / records.CONFIG).write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _seed(
    files: Mapping[str, str], scripts: Mapping[str, Path], *, public_key: str, instance_id: str
) -> dict[str, str]:
    return render_bake_seed(
        files["packages.txt"].split(),
        install_script=scripts["scripts/install.sh"].read_bytes(),
        public_key=public_key,
        instance_id=instance_id,
    )
