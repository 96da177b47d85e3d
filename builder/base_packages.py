"""What a base is built from: packages, and the suites of the mirror that this machine's apt uses."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path

from builder import process
from builder.errors import BuilderError, CommandError
from builder.releases import Release

# `RELEASE` is the suite as written in sources.list; `ORIGIN` and `CODENAME` come from its index.
_TARGET_FIELDS = ("ORIGIN", "CODENAME", "RELEASE", "COMPONENT", "REPO_URI", "SOURCESENTRY")
_COMPONENTS = {"debian": ("main",), "ubuntu": ("main", "universe")}
_KEYRING_PACKAGES = {"debian": "debian-archive-keyring", "ubuntu": "ubuntu-keyring"}
_OFFICIAL = {"debian": "Debian", "ubuntu": "Ubuntu"}
_SUFFIXES = ("", "-updates", "-security")
_APT_HELPER = "/usr/lib/apt/apt-helper"
_ALIASES = ("stable", "oldstable", "oldoldstable", "testing")

_PACKAGES = (
    # boots: init, devices, initramfs, both boot loaders
    "systemd-sysv", "udev", "kmod", "initramfs-tools", "grub2-common", "grub-pc-bin",
    "grub-efi-amd64-bin", "grub-efi-amd64-signed", "shim-signed",
    # grows to its disk and gets its user, keys and network from the datasource
    "cloud-init", "cloud-guest-utils", "e2fsprogs", "netplan.io", "systemd-timesyncd",
    # is logged in to; without libpam-systemd SSH sessions hang at a reboot
    "openssh-server", "sudo", "libpam-systemd", "dbus",
    # what every cloud image has and packages rely on: /etc/services, ip, ps, TLS roots, and an
    # address for the machine's own name, which sudo asks for
    "netbase", "iproute2", "procps", "ca-certificates", "libnss-myhostname",
)  # fmt: skip


@dataclass(frozen=True)
class Suite:
    """One line of sources.list: where packages come from and what signs them."""

    uri: str
    name: str
    components: tuple[str, ...]
    keyring: Path | None

    def line(self) -> str:
        """Write it as sources.list(5) has it."""
        signed = f"[signed-by={self.keyring}] " if self.keyring else ""
        return f"deb {signed}{self.uri} {self.name} {' '.join(self.components)}"


def kernel_package(release: Release) -> str:
    """Return the kernel of the distribution's own cloud images: small, with virtio drivers."""
    return "linux-image-cloud-amd64" if release.family == "debian" else "linux-image-virtual"


def packages(release: Release) -> tuple[str, ...]:
    """Return what is installed beside the essential packages and apt."""
    # systemd-resolved is a package of its own from systemd 252.
    resolver = ("systemd-resolved",) if release.systemd >= 252 else ()
    return (kernel_package(release), *_PACKAGES, *resolver)


def suites(release: Release, *, mirror: str | None = None) -> list[Suite]:
    """Return the suites of `release`: from `mirror`, or from where apt gets its own packages.

    BuilderError when apt has no mirror of that distribution, or the keys of the release are not here.
    """
    if mirror is None:
        return _apt_suites(release)
    if not re.fullmatch(r"(https?://|file:/)\S+", mirror):
        raise BuilderError(
            f"`{mirror}` is not the address of a package mirror",
            hint="Give the folder that has `dists` in it, such as `--mirror http://HOST/ubuntu`",
        )
    keyring = _standard_keyring(release.family)
    if keyring is None:
        raise BuilderError(
            f"The keys that sign `{release.name}` are not on this machine",
            hint=f"Run `apt-get install {_KEYRING_PACKAGES[release.family]}`",
        )
    uri, components = mirror.rstrip("/") + "/", _COMPONENTS[release.family]
    return [Suite(uri, release.codename + suffix, components, keyring) for suffix in _SUFFIXES]


def published(wanted: Sequence[Suite], release: Release, folder: Path) -> tuple[list[Suite], int]:
    """Return the suites that the mirror has, and when the newest of them was published.

    The time is in seconds since the epoch: it dates all files of the build. Asks through apt's own
    downloader, so that its proxies and certificates count. BuilderError when the release itself is
    missing or the mirror cannot be reached.
    """
    found, dates = [], [0]
    for suite in wanted:
        index = folder / "InRelease"
        error = _fetch_index(f"{suite.uri}dists/{suite.name}/InRelease", index)
        if error is None:
            found.append(suite)
            dates.append(_date(index.read_text(encoding="utf-8", errors="replace")))
            index.unlink()
        elif suite.name == release.codename or "404" not in error:
            raise BuilderError(
                f"The package mirror `{suite.uri}` does not serve `{suite.name}`: {error}",
                hint=f"Give a mirror that has {release.name}: "
                f"`builder base build {release.name} --mirror URL`",
            )
    return found, max(dates)


def apt_options() -> dict[str, str]:
    """Return what this machine's apt needs to download: proxies, certificates, retries.

    mmdebstrap shows apt only the new system's configuration, so these are handed on.
    """
    dump = process.run(["apt-config", "dump"]).stdout
    found = re.findall(r'^(Acquire::https?(?:::\S+)?) "(.+)";$', dump, re.MULTILINE)
    return {"Acquire::Retries": "3", **dict(found)}


def _apt_suites(release: Release) -> list[Suite]:
    process.find_tool("apt-get", to="find the package mirror", install="apt-get install apt")
    template = "\t".join(f"$({field})" for field in _TARGET_FIELDS)
    listed = process.run(["apt-get", "indextargets", "--format", template, "Created-By: Packages"])
    own = _own("VERSION_CODENAME")
    merged: dict[tuple[str, str], Suite] = {}
    for line in listed.stdout.splitlines():
        fields = dict(zip(_TARGET_FIELDS, line.split("\t"), strict=True))
        suffix = _suffix(fields, own)
        if suffix is None or fields["ORIGIN"] != _OFFICIAL[release.family]:
            continue
        name, uri = release.codename + suffix, fields["REPO_URI"]
        before = merged.get((uri, name))
        components = (*(before.components if before else ()), fields["COMPONENT"])
        keyring = _signed_by(fields["SOURCESENTRY"]) or _standard_keyring(release.family)
        merged[uri, name] = Suite(uri, name, tuple(dict.fromkeys(components)), keyring)
    if not any(suite.name == release.codename for suite in merged.values()):
        raise BuilderError(
            f"apt on this machine has no package lists of {_OFFICIAL[release.family]}, "
            f"so the mirror for `{release.name}` is not known",
            hint=("Run `apt-get update`, or give" if _own("ID") == release.family else "Give")
            + f" the mirror: `builder base build {release.name} --mirror URL`",
        )
    return list(merged.values())


def _own(key: str) -> str:
    """Return a value of this machine's os-release(5)."""
    try:
        text = Path("/etc/os-release").read_text(encoding="utf-8")
    except OSError:
        return ""
    match = re.search(rf'^{key}="?([a-z]+)', text, re.MULTILINE)
    return match[1] if match else ""


def _suffix(fields: dict[str, str], own: str) -> str | None:
    """Return `-updates`, `-security` or nothing for a suite of this machine's own release."""
    for suffix in reversed(_SUFFIXES):
        stem = fields["RELEASE"].removesuffix(suffix)
        if fields["RELEASE"].endswith(suffix) and (stem == own or stem in _ALIASES):
            return suffix
    return None


def _signed_by(entry: str) -> Path | None:
    """Return the keyring that sources.list names. `entry` is `FILE:NUMBER`, as apt counts.

    The number is a line in a `.list` file and a stanza in a `.sources` file.
    """
    file, _, number = entry.rpartition(":")
    try:
        text = Path(file).read_text(encoding="utf-8")
        if file.endswith(".sources"):
            stanzas = [part for part in re.split(r"\n\s*\n", text) if "URIs:" in part]
            match = re.search(r"^Signed-By:\s*(/\S+)", stanzas[int(number) - 1], re.MULTILINE)
        else:
            match = re.search(r"signed-by=(/[^\s\],]+)", text.splitlines()[int(number) - 1])
    except (OSError, ValueError, IndexError):
        return None
    return Path(match[1]) if match else None


def _standard_keyring(family: str) -> Path | None:
    keyring = Path(f"/usr/share/keyrings/{family}-archive-keyring.gpg")
    return keyring if keyring.exists() else None


def _fetch_index(uri: str, target: Path) -> str | None:
    """Download through apt; None when it worked, else apt's reason."""
    options = [word for key, value in apt_options().items() for word in ("-o", f"{key}={value}")]
    try:
        process.run([_APT_HELPER, *options, "download-file", uri, target], timeout_seconds=120)
    except CommandError as error:
        target.unlink(missing_ok=True)
        lines = [line for line in error.output.splitlines() if line.startswith("E: Failed to")]
        return re.sub(r"^E: Failed to fetch \S+\s+", "", lines[0]) if lines else shlex.join(error.argv)
    return None


def _date(index: str) -> int:
    """Read `Date:` of an InRelease file as seconds since the epoch; 0 when it has none."""
    match = re.search(r"^Date: (.+)$", index, re.MULTILINE)
    return int(parsedate_to_datetime(match[1]).timestamp()) if match else 0
