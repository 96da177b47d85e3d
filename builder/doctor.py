"""Examine the machine: every tool, version, accelerator and permission, with the command that mends each."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from builder import packer, process, scratch
from builder.errors import BuilderError, ToolError
from builder.scratch import Scratch

Status = Literal["ok", "slow", "missing", "too old", "too little", "hangs", "not usable", "not reachable"]

_NETWORK_SECONDS = 5
_NEEDED_BYTES = 6 * 10**9
_ARCHIVE_KEYRING = Path("/usr/share/keyrings/ubuntu-cloudimage-keyring.gpg")


@dataclass(frozen=True)
class Finding:
    """One thing examined. `required`: `builder bake` and `builder demo` do not work without it."""

    name: str
    status: Status
    found: str
    needed_to: str
    required: bool = False
    mend: str = ""
    package: str = ""
    """The Debian and Ubuntu package that brings it."""

    @property
    def is_fine(self) -> bool:
        """Whether there is nothing to mend; slow is fine."""
        return self.status in ("ok", "slow")

    def to_json_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready data."""
        return asdict(self)


@dataclass(frozen=True)
class Tool:
    """A program to look for: `version` are the arguments that make it print its version, if any do."""

    name: str
    package: str
    needed_to: str
    required: bool = True
    version: tuple[str, ...] = ("--version",)
    minimum: tuple[int, ...] = ()


TOOLS = (
    Tool("qemu-system-x86_64", "qemu-system-x86", "bake and boot images", minimum=(4, 2)),
    Tool("qemu-img", "qemu-utils", "read and write disk images", minimum=(4, 2)),
    Tool("xorriso", "xorriso", "write the cloud-init seed"),
    Tool("ssh", "openssh-client", "look into a guest", version=("-V",)),
    Tool("ssh-keygen", "openssh-client", "make the key of one bake", version=()),
    Tool("debugfs", "e2fsprogs", "assert on the finished image", version=("-V",)),
    Tool("setpriv", "util-linux", "end Packer and guests when builder is killed", required=False),
    Tool("mmdebstrap", "mmdebstrap", "build a base from packages", required=False),
    Tool("sfdisk", "fdisk", "build a base from packages", required=False),
    Tool("mke2fs", "e2fsprogs", "build a base from packages", required=False, version=("-V",)),
    Tool("mformat", "mtools", "build a base from packages", required=False),
    Tool("zstd", "zstd", "build a base from packages", required=False),
    Tool("gpgv", "gpgv", "check the signature on a downloaded base", required=False),
    Tool("postfix", "postfix", "run the tests", required=False, version=()),
    Tool("sshd", "openssh-server", "run the tests", required=False, version=()),
    Tool("shellcheck", "shellcheck", "run the tests", required=False),
)


def examine(*, images: Path, cache: Path, network: bool = True, aws: bool = False) -> list[Finding]:
    """Examine everything and return what was found, the required things first.

    `network` also asks the places that base images come from, `aws` also AWS who we are; each answer is
    waited for 5 seconds. Errors: none, each is a finding.
    """
    checks: list[Callable[[], Iterable[Finding]]] = [
        lambda: [check_python()],
        check_packer,
        *[_later(tool) for tool in TOOLS],
        lambda: [check_accelerator()],
        lambda: [check_root()],
        lambda: [
            check_disk("images", images, "BUILDER_IMAGES"),
            check_disk("cache", cache, "BUILDER_CACHE"),
            check_disk("temporary files", scratch.parent(), "TMPDIR"),
        ],
        lambda: [check_keyring()],
    ]
    if network:
        checks.append(lambda: check_bases(cache))
    if aws:
        checks.append(lambda: [check_aws()])
    with ThreadPoolExecutor(max_workers=8) as threads:
        found = [finding for findings in threads.map(lambda check: check(), checks) for finding in findings]
    return sorted(found, key=lambda finding: not finding.required)


def apt_command(findings: Sequence[Finding]) -> str | None:
    """Return the one command that installs every missing package; None when none is missing."""
    packages = dict.fromkeys(each.package for each in findings if each.status == "missing" and each.package)
    if not packages:
        return None
    sudo = "" if os.geteuid() == 0 else "sudo "
    return f"{sudo}apt-get install --no-install-recommends {' '.join(packages)}"


def check_python() -> Finding:
    """Examine this Python; one that is too old could not have come this far."""
    return Finding("python", "ok", f"{platform.python_version()} ({sys.executable})", "run builder", True)


def check_packer(*, timeout_seconds: float = 10) -> Iterator[Finding]:
    """Examine Packer, its generation and its plugins."""
    to = "bake images"
    try:
        found = packer.find(timeout_seconds=timeout_seconds)
        plugins = found.plugins()
    except ToolError as error:
        package = "packer" if _status_of(error) == "missing" else ""
        yield Finding("packer", _status_of(error), error.message, to, True, error.hint or "", package)
        return
    except BuilderError as error:
        yield Finding("packer", "not usable", error.message, to, True, error.hint or "")
        return
    about = "plugins built in" if found.bundles_plugins else "plugins apart"
    yield Finding("packer", "ok", f"{found.version}, {about} ({found.path})", to, True)
    if found.bundles_plugins:
        return
    for target, plugin in packer.PLUGINS.items():
        mend = f"{found.path} plugins install github.com/hashicorp/{plugin}"
        version = plugins.get(plugin)
        yield Finding(
            f"packer plugin {plugin}",
            "ok" if version else "missing",
            version or "not installed; a bake tries `packer init`",
            f"bake --target {target}",
            mend="" if version else mend,
        )


def check_tool(tool: Tool) -> Finding:
    """Examine one program: is it there, does it answer, is it new enough."""
    mend = f"apt-get install {tool.package}"
    try:
        path = process.find_tool(tool.name, to=tool.needed_to, install=mend)
        version = process.tool_version(path, tool.version) if tool.version else ""
    except ToolError as error:
        status = _status_of(error)
        package = tool.package if status == "missing" else ""
        return Finding(tool.name, status, error.message, tool.needed_to, tool.required, mend, package)
    number = tuple(int(part) for part in version.split(".")) if version else ()
    if tool.minimum and number < tool.minimum:
        minimum = ".".join(str(part) for part in tool.minimum)
        found = f"{version}; {minimum} or newer is needed ({path})"
        return Finding(tool.name, "too old", found, tool.needed_to, tool.required, mend)
    return Finding(tool.name, "ok", f"{version} ({path})".strip(), tool.needed_to, tool.required)


def check_accelerator() -> Finding:
    """Examine what runs a guest: the processor, or software, and why."""
    from builder.launch.accelerator import choose_accelerator

    chosen = choose_accelerator()
    to = "boot in seconds rather than minutes"
    if chosen.name == "kvm":
        return Finding("accelerator", "ok", str(chosen), to)
    return Finding(
        "accelerator", "slow", str(chosen), to, mend="Nothing needed; a machine with KVM is faster"
    )


def check_root() -> Finding:
    """Examine who runs this: only root builds a base, and runs a Postfix in the tests."""
    if os.geteuid() == 0:
        return Finding("root", "ok", "this is root", "build a base from packages, run the tests")
    return Finding(
        "root", "missing", "this is not root", "build a base from packages, run the tests", mend="Use `sudo`"
    )


def check_disk(name: str, folder: Path, variable: str) -> Finding:
    """Examine the folder that `variable` names: may it be written, and is there room."""
    title, to = f"disk for {name}", "bake and boot images"
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        what = "may not be written to" if existing.is_dir() else "is not a folder"
        mend = f"Set {variable} to a folder that you may write to"
        return Finding(title, "not usable", f"`{existing}` {what}", to, True, mend)
    free = shutil.disk_usage(existing).free
    found = f"{free / 1e9:.1f} GB free in `{folder}`"
    if free >= _NEEDED_BYTES:
        return Finding(title, "ok", found, to, True)
    found += f"; {_NEEDED_BYTES / 1e9:.0f} GB are needed"
    mend = f"Free some space, or set {variable} to a folder on another disk"
    return Finding(title, "too little", found, to, True, mend)


def check_keyring(keyring: Path = _ARCHIVE_KEYRING) -> Finding:
    """Examine the keys that sign Canonical's images; without them only the digest is checked."""
    to = "check the signature on a downloaded base"
    if keyring.is_file():
        return Finding("Canonical's keys", "ok", str(keyring), to)
    mend = "apt-get install ubuntu-cloudimage-keyring  # an Ubuntu package"
    return Finding("Canonical's keys", "missing", f"no `{keyring}`", to, mend=mend)


def check_bases(cache: Path) -> list[Finding]:
    """Examine where a base image can come from: the cache, Canonical, or the package mirror of apt."""
    from builder.base_images import SITE

    cached = list(cache.glob("bases/*/base.json"))
    site, mirror = check_site(SITE), check_mirror()
    ways = [
        *([f"{len(cached)} in the cache"] if cached else []),
        *(["downloads"] if site.is_fine else []),
        *(["the package mirror"] if mirror.is_fine else []),
    ]
    mend = "Give an image with `builder bake --base FILE`"
    whole = Finding(
        "a base image",
        "ok" if ways else "missing",
        ", ".join(ways) or "none can be had here",
        "bake images",
        True,
        "" if ways else mend,
    )
    return [whole, site, mirror]


def check_site(url: str) -> Finding:
    """Ask the site of the cloud images for its first page."""
    name, to = "cloud images", "download a base"
    try:
        with urllib.request.urlopen(url, timeout=_NETWORK_SECONDS):  # noqa: S310  # our own https address
            return Finding(name, "ok", url, to)
    except (OSError, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        mend = "`builder base build debian-12` makes one from packages, or give `--base FILE`"
        return Finding(name, "not reachable", f"{url}: {reason}", to, mend=mend)


def check_mirror() -> Finding:
    """Ask the mirror that apt is configured with for the index of a release, through apt itself."""
    from builder import base_packages
    from builder.releases import get_release

    name, to = "package mirror", "build a base from packages"
    try:
        own = base_packages.suites(get_release("debian-12"))[0]
        address = f"{own.uri}dists/{own.name}/InRelease"
        limits = ["-o", f"Acquire::http::Timeout={_NETWORK_SECONDS}", "-o", "Acquire::Retries=0"]
        with Scratch("doctor") as folder:
            process.run(
                ["/usr/lib/apt/apt-helper", *limits, "download-file", address, folder / "InRelease"],
                timeout_seconds=_NETWORK_SECONDS + 5,
            )
    except BuilderError as error:
        first = error.message.splitlines()[0]
        return Finding(name, "not reachable", first, to, mend=error.hint or "Check apt: `apt-get update`")
    except OSError as error:  # no room for the answer; the finding about that disk says more
        return Finding(
            name, "not reachable", f"cannot be asked: {error.strerror}", to, mend="Free some space"
        )
    return Finding(name, "ok", f"`{own.uri}`, as apt is configured", to)


def check_aws() -> Finding:
    """Ask AWS who we are; the answer names the source of the credentials, never the credentials."""
    from builder import aws

    try:
        return Finding(
            "AWS credentials", "ok", aws.who_am_i(timeout_seconds=_NETWORK_SECONDS), "bake --target ami"
        )
    except BuilderError as error:
        return Finding(
            "AWS credentials", "not usable", error.message, "bake --target ami", mend=error.hint or ""
        )


def _later(tool: Tool) -> Callable[[], list[Finding]]:
    return lambda: [check_tool(tool)]


def _status_of(error: ToolError) -> Status:
    if "not installed" in error.message:
        return "missing"
    if "did not answer" in error.message:
        return "hangs"
    return "too old" if "or newer is needed" in error.message else "not usable"
