"""Install a release's packages into a folder with mmdebstrap and make it like a cloud image."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from builder import base_packages, base_store, console, process
from builder.base_packages import Suite
from builder.errors import BuilderError, CommandError
from builder.releases import Release

_LIMIT_SECONDS = 3600
_ARCHIVES = Path("var/cache/apt/archives")
_MISSING_KERNEL = re.compile(r"Failed to fetch \S+/(linux-image-[a-z0-9-]+)_\S+\s+404")

# Read by ds-identify, so on one line. A guest without any of them boots with cloud-init off.
_DATASOURCES = "datasource_list: [ NoCloud, ConfigDrive, OpenStack, Ec2, GCE, Azure, None ]\n"
_CLOUD_CFG = """\
# As in the distribution's cloud images: netplan, where cloud-init would look for ifupdown first.
system_info:
  network:
    renderers: [ netplan, eni ]
# Made already, so that the first boot generates none.
locale: C.UTF-8
# Packages keep coming from where the base was built from.
apt:
  preserve_sources_list: true
"""
_SSHD = "PasswordAuthentication no\n"
_HOSTS = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\nff02::1 ip6-allnodes\n"
# What is left of the build; `cloud-init` and systemd make their own at the first boot.
_LEFTOVERS = (
    "etc/ssh/ssh_host_*", "etc/apt/apt.conf.d/99mmdebstrap", "etc/dpkg/dpkg.cfg.d/99mmdebstrap",
    "var/lib/dbus/machine-id", "var/lib/systemd/random-seed", "var/cache/apt/*.bin",
    "var/lib/apt/lists/*", "var/cache/debconf/*-old", "var/lib/dpkg/*-old", "var/log/*.log",
    "var/log/apt/*", "var/cache/apt/archives/partial", "var/cache/ldconfig/aux-cache",
    "root/.bash_history", "root/.ssh", "tmp/*", "run/*", "etc/*-", "vmlinuz.old", "initrd.img.old",
)  # fmt: skip


def install(
    release: Release, suites: Sequence[Suite], root: Path, *, debs: Path, log: Path, epoch: int
) -> None:
    """Install the packages into `root`; downloaded ones are kept in `debs` for the next build.

    A mirror may list a kernel's meta package and not have it (seen on a Debian 11 security archive);
    then the kernel it stands for is installed by its own name.
    """
    packages = base_packages.packages(release)
    try:
        _mmdebstrap(release, suites, root, packages, debs=debs, log=log, epoch=epoch)
    except CommandError as error:
        missing = _MISSING_KERNEL.search(error.output)
        kernel = _stands_for(root, missing[1]) if missing else None
        if missing is None or kernel is None:
            raise explain(error) from error
        console.warn(
            f"The mirror lists `{missing[1]}` but does not have it; installing `{kernel}`, which "
            "a package upgrade in the guest will not replace"
        )
        base_store.remove_tree(root)
        packages = tuple(kernel if each == missing[1] else each for each in packages)
        try:
            _mmdebstrap(release, suites, root, packages, debs=debs, log=log, epoch=epoch)
        except CommandError as second:
            raise explain(second) from second


def command(
    release: Release,
    suites: Sequence[Suite],
    root: Path,
    packages: Sequence[str],
    *,
    debs: Path,
    options: Mapping[str, str],
) -> list[str]:
    """Return the mmdebstrap command line. Manual: mmdebstrap(1)."""
    # Hard links: the cache lies on the same disk. Nothing writes into a package file.
    hook = f'mkdir -p "$1/{_ARCHIVES}/partial" && cp -al {shlex.quote(str(debs))}/. "$1/{_ARCHIVES}/"'
    uses_files = any(suite.uri.startswith(("file:", "copy:")) for suite in suites)
    return [
        "mmdebstrap",
        "--mode=root",
        "--format=directory",
        "--variant=apt",
        "--architectures=amd64",
        f"--include={','.join(packages)}",
        # The keep-alive of the cache: nothing is emptied before, unlinked between or cleaned after.
        "--skip=download/empty,essential/unlink,cleanup/apt",
        f"--setup-hook={hook}",
        # The disk image is made afterwards: a crash here costs only the build.
        "--dpkgopt=force-unsafe-io",
        '--aptopt=Acquire::Languages "none"',
        *(f'--aptopt={key} "{value}"' for key, value in options.items()),
        *(["--hook-dir=/usr/share/mmdebstrap/hooks/file-mirror-automount"] if uses_files else []),
        release.codename,
        str(root),
        *(suite.line() for suite in suites),
    ]


def make_like_cloud_image(root: Path, release: Release, suites: Sequence[Suite]) -> None:
    """Configure the root folder as cloud images are, and remove what must not be in two machines.

    No password, no host key, no machine id; root cannot log in.
    """
    _write(root, "etc/hostname", f"{release.family}\n")
    _write(root, "etc/hosts", _HOSTS)
    _write(root, "etc/default/locale", "LANG=C.UTF-8\n")
    _write(root, "etc/cloud/cloud.cfg.d/90_dpkg.cfg", _DATASOURCES)
    _write(root, "etc/cloud/cloud.cfg.d/91_base.cfg", _CLOUD_CFG)
    _write(root, "etc/ssh/sshd_config.d/60-cloudimg-settings.conf", _SSHD)
    process.run(["chroot", root, "systemctl", "enable", "systemd-resolved", "systemd-networkd"])
    process.run(["chroot", root, "usermod", "--lock", "root"])
    for pattern in _LEFTOVERS:
        for path in root.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    _keep_keyrings(root, suites)
    _write(root, "etc/machine-id", "")
    resolv = root / "etc/resolv.conf"
    resolv.unlink(missing_ok=True)
    resolv.symlink_to("../run/systemd/resolve/stub-resolv.conf")


def installed(root: Path) -> dict[str, str]:
    """Return the installed packages as `{name: version}`."""
    listed = process.run(
        [
            "dpkg-query",
            f"--admindir={root / 'var/lib/dpkg'}",
            "--show",
            "--showformat=${Package}\\t${Version}\\n",
        ]
    )
    pairs = (line.split("\t") for line in listed.stdout.splitlines())
    return {pair[0]: pair[1] for pair in sorted(pairs)}


def pack(root: Path, archive: Path, *, epoch: int) -> None:
    """Pack the root folder as .tar.zst, sorted and dated so that the same content gives the same file."""
    process.run(
        [
            "tar", "--create", "--use-compress-program=zstd -q -T0 -1", f"--file={archive}",
            f"--directory={root}", "--numeric-owner", "--xattrs", "--acls", "--sort=name",
            f"--mtime=@{epoch}", "--clamp-mtime", ".",
        ],
        timeout_seconds=600,
    )  # fmt: skip


def explain(error: CommandError) -> BuilderError:
    """Turn a failed tool into an error that says what to do, where the reason is a known one."""
    if "No space left on device" in error.output:
        return BuilderError(
            "The disk is full: a base needs 3 GB while it is built, and 1 GB afterwards",
            hint="Make room, or set `BUILDER_CACHE` to a folder on another disk",
        )
    failed = re.search(r"E: Failed to fetch (\S+)\s+(.+)", error.output)
    if failed:
        return BuilderError(
            f"The package mirror did not deliver `{failed[1]}`: {failed[2].strip()}",
            hint="Try again later, or give another mirror with `--mirror URL`",
        )
    missing = re.search(r"E: Unable to locate package (\S+)", error.output)
    if missing:
        return BuilderError(
            f"The package mirror has no package `{missing[1]}`",
            hint="Give a complete mirror with `--mirror URL`",
        )
    return error


def _mmdebstrap(
    release: Release,
    suites: Sequence[Suite],
    root: Path,
    packages: Sequence[str],
    *,
    debs: Path,
    log: Path,
    epoch: int,
) -> None:
    debs.mkdir(parents=True, exist_ok=True)
    options = base_packages.apt_options()
    argv = command(release, suites, root, packages, debs=debs, options=options)
    try:
        with console.step(f"Installing {release.name} from packages") as step:
            _run_logged(argv, log, step, epoch=epoch)
    finally:
        _keep_debs(root, debs)


def _run_logged(argv: Sequence[str], log: Path, step: console.Step, *, epoch: int) -> None:
    """Run mmdebstrap in its own process group, which is ended when we are interrupted."""
    started = time.monotonic()
    log.write_bytes(b"")
    env = {"SOURCE_DATE_EPOCH": str(epoch)}
    with process.Running(argv, log=log, env=env, when_we_die=signal.SIGTERM) as running:
        while (code := running.wait(0.5)) is None:
            step.note(_phase(log.read_text(encoding="utf-8", errors="replace")))
            if time.monotonic() - started > _LIMIT_SECONDS:
                raise BuilderError(f"mmdebstrap did not end within {_LIMIT_SECONDS} s; its log is `{log}`")
    if code != 0:
        text = log.read_text(encoding="utf-8", errors="replace")
        raise process.failure(process.Finished(tuple(argv), code, text, ""))


def _phase(log: str) -> str:
    """Say what mmdebstrap is doing, in its own words."""
    phases = re.findall(r"^I: ((?:running apt|downloading|extracting|installing).+)", log, re.M)
    return str(phases[-1]).rstrip(".") if phases else "starting"


def _keep_debs(root: Path, debs: Path) -> None:
    """Move the downloaded packages into the cache, so that no build downloads one twice."""
    for deb in (root / _ARCHIVES).glob("*.deb"):
        deb.replace(debs / deb.name)
        # Renaming one hard link to another of the same file leaves both: rename(2).
        deb.unlink(missing_ok=True)


def _stands_for(root: Path, package: str) -> str | None:
    """Return the kernel that a meta package depends on, from the package lists below `root`."""
    asked = process.run(
        [
            "apt-cache",
            f"--option=Dir={root}",
            f"--option=Dir::State::status={root / 'var/lib/dpkg/status'}",
            "depends",
            package,
        ],
        check=False,
    )
    match = re.search(r"^\s+Depends: (linux-image-\d\S+)$", asked.stdout, re.MULTILINE)
    return match[1] if match else None


def _keep_keyrings(root: Path, suites: Sequence[Suite]) -> None:
    """Copy the keyrings that sources.list names and no package of the guest holds."""
    for suite in suites:
        if suite.keyring is None:
            continue
        target = root / suite.keyring.relative_to("/")
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(suite.keyring, target)


def _write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
