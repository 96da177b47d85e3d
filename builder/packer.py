"""Find Packer, and say whether this one can do what a bake asks of it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from builder import process
from builder.errors import CommandError, ToolError

Target = Literal["qemu", "ami"]

# The builder of a target, the plugin that has it, and the oldest Packer that our template was tried on.
BUILDERS: Mapping[Target, str] = {"qemu": "qemu", "ami": "amazon-ebs"}
PLUGINS: Mapping[Target, str] = {"qemu": "qemu", "ami": "amazon"}
_OLDEST = (1, 6, 6)
# Packer looks for these, in this order, to write the seed ISO; `genisoimage` is not among them.
_ISO_TOOLS = ("xorriso", "mkisofs", "hdiutil", "oscdimg")
_PLUGIN_FILE = re.compile(r"github\.com/hashicorp/(\w+)/packer-plugin-\w+_v(\d+\.\d+\.\d+)")
_INSTALL = "sudo apt-get install packer"


@dataclass(frozen=True)
class Packer:
    """A Packer that answered; `plugins_dir` is a folder of plugins that lies beside it, if there is one."""

    path: Path
    version: str
    plugins_dir: Path | None = None

    @property
    def number(self) -> tuple[int, ...]:
        """The version, to compare with."""
        return tuple(int(part) for part in self.version.split("."))

    @property
    def knows_plugins(self) -> bool:
        """Whether it reads `required_plugins` (1.7)."""
        return self.number >= (1, 7)

    @property
    def bundles_plugins(self) -> bool:
        """Whether the qemu and amazon builders are built in (until 1.10)."""
        return self.number < (1, 10)

    def environment(self) -> dict[str, str]:
        """Return the variables every call gets: no version check, and where plugins are."""
        return _environment(self.plugins_dir)

    def plugins(self) -> dict[str, str]:
        """List installed plugins of HashiCorp, name to version; those that are built in are not listed."""
        if not self.knows_plugins:
            return {}
        listed = process.run(
            [self.path, "plugins", "installed"], check=False, env=self.environment(), timeout_seconds=30
        )
        return dict(_PLUGIN_FILE.findall(listed.stdout))


def find(explicit: Path | None = None, *, timeout_seconds: float = 10) -> Packer:
    """Find Packer: `explicit` (`--packer`), `PACKER_BIN`, then PATH; and ask it for its version.

    Errors: ToolError when there is none, it is older than 1.6.6, or does not answer (cracklib has another
    program named `packer`, which waits on its input).
    """
    named = explicit or (Path(os.environ["PACKER_BIN"]) if os.environ.get("PACKER_BIN") else None)
    if named is None:
        path = process.find_tool("packer", to="bake images", install=_INSTALL)
    elif shutil.which(named) is None:
        raise ToolError(f"`{named}` is not a program", hint="Point `--packer` or PACKER_BIN at Packer itself")
    else:
        path = named.absolute()
    beside = path.parent / "plugins"
    plugins_dir = beside if beside.is_dir() else None
    version = _ask_version(path, plugins_dir, timeout_seconds)
    found = Packer(path, version, plugins_dir)
    if found.number < _OLDEST:
        raise ToolError(
            f"`{path}` is {version}; 1.6.6 or newer is needed to bake images", hint=f"Run `{_INSTALL}`"
        )
    return found


def require_tools(target: Target) -> None:
    """Check the programs that Packer itself needs for a target, before anything is started.

    Errors: ToolError with the command that installs what is missing.
    """
    if target == "ami":
        return
    process.find_tool(
        "qemu-system-x86_64", to="bake under QEMU", install="sudo apt-get install qemu-system-x86"
    )
    process.find_tool("qemu-img", to="write disk images", install="sudo apt-get install qemu-utils")
    process.find_tool(
        _ISO_TOOLS[0],
        to="write the cloud-init seed",
        install="sudo apt-get install xorriso",
        also=_ISO_TOOLS[1:],
    )


def install_plugin(packer: Packer, target: Target, folder: Path, *, timeout_seconds: float = 180) -> None:
    """Run `packer init` in a staged folder: it downloads the plugin that the target needs.

    Errors: ToolError when it fails or takes too long, with the two ways to do without.
    """
    plugin = PLUGINS[target]
    hint = (
        f"Run `packer plugins install github.com/hashicorp/{plugin}` where there is internet access, "
        f"or use 1.6.6 from the archive, which has it built in: `{_INSTALL}`"
    )
    try:
        process.run(
            [packer.path, "init", "."], cwd=folder, env=packer.environment(), timeout_seconds=timeout_seconds
        )
    except CommandError as error:
        last = (error.output.strip().splitlines() or ["no output"])[-1].strip()
        raise ToolError(
            f"`{packer.path}` {packer.version} has no `{plugin}` plugin, and `packer init` could not "
            f"install it: {last}",
            hint=hint,
        ) from error


def _environment(plugins_dir: Path | None) -> dict[str, str]:
    kept = {
        name: os.environ[name] for name in ("PACKER_PLUGIN_PATH", "PACKER_CONFIG_DIR") if name in os.environ
    }
    if plugins_dir is not None:
        kept.setdefault("PACKER_PLUGIN_PATH", str(plugins_dir))
    return {"CHECKPOINT_DISABLE": "1", "PACKER_NO_COLOR": "1", **kept}


def _ask_version(path: Path, plugins_dir: Path | None, timeout_seconds: float) -> str:
    other = "Another program of that name may come first on PATH; name the right one with `--packer`"
    try:
        answer = process.run(
            [path, "version"], check=False, env=_environment(plugins_dir), timeout_seconds=timeout_seconds
        )
    except CommandError as error:
        raise ToolError(
            f"`{path} version` did not answer within {timeout_seconds:.0f} s", hint=other
        ) from error
    match = re.search(r"Packer v(\d+\.\d+\.\d+)", answer.stdout)
    if match is None:
        raise ToolError(f"`{path} version` does not answer as Packer does", hint=other)
    return match.group(1)
