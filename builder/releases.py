"""The Linux releases that a relay can be baked on, and what differs between them."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from builder.errors import BuilderError

_ARCHITECTURES: dict[str, tuple[str, ...]] = {"debian": ("amd64",), "ubuntu": ("amd64", "arm64")}
_OLD_TLS_PROTOCOLS = "!SSLv2, !SSLv3, !TLSv1, !TLSv1.1"


@dataclass(frozen=True)
class Release:
    """One release; versions are those of its archive, read in November 2026."""

    name: str
    family: str
    version: str
    codename: str
    python: str
    postfix: str
    cloud_init: str
    systemd: int
    # The unit that starts and stops the Postfix master. Where it is `postfix@-.service`, the unit
    # `postfix.service` is an empty one that stays active when the master is dead.
    postfix_unit: str
    # Whether master.cf as packaged runs the daemons in a chroot.
    postfix_chroot: bool
    # Whether `cloud-init status --wait` exits with 2 after errors that it survived. Upstream does
    # so from 23.4; Ubuntu 20.04 and 22.04 keep 0 (Launchpad bug 2048522). So read the JSON.
    status_exits_2: bool
    architectures: tuple[str, ...]

    @property
    def postfix_version(self) -> tuple[int, int]:
        """Postfix as `(major, minor)`, to compare with."""
        return _numbers(self.postfix)

    @property
    def cloud_init_version(self) -> tuple[int, int]:
        """cloud-init as `(major, minor)`, to compare with."""
        return _numbers(self.cloud_init)

    @property
    def python_version(self) -> tuple[int, int]:
        """Python as `(major, minor)`, to compare with."""
        return _numbers(self.python)

    @property
    def compatibility_level(self) -> str:
        """The newest `compatibility_level` it knows; only an integer before Postfix 3.6.

        Source: postconf(5), compatibility_level.
        """
        major, minor = self.postfix_version
        return f"{major}.{minor}" if (major, minor) >= (3, 6) else "2"

    @property
    def supports_tls_floor(self) -> bool:
        """Whether `*_tls_protocols` takes `>=TLSv1.2` (Postfix 3.6)."""
        return self.postfix_version >= (3, 6)

    @property
    def tls_protocols(self) -> str:
        """TLS 1.2 and newer, in the words this Postfix understands."""
        return ">=TLSv1.2" if self.supports_tls_floor else _OLD_TLS_PROTOCOLS

    @property
    def supports_relayhost_list(self) -> bool:
        """Whether `relayhost` takes more than one next hop (Postfix 3.5)."""
        return self.postfix_version >= (3, 5)

    @property
    def supports_haproxy_v2(self) -> bool:
        """Whether `smtpd_upstream_proxy_protocol` reads PROXY version 2 (Postfix 3.5)."""
        return self.postfix_version >= (3, 5)

    @property
    def must_forbid_bare_newline(self) -> bool:
        """Whether `smtpd_forbid_bare_newline = normalize` must be written: default from 3.9.

        Every release here has the parameter from its security archive (20.04 by USN-6591-2; a
        Postfix without it only warns of an unused parameter).
        """
        return self.postfix_version < (3, 9)

    @property
    def supports_mime_input_conversion(self) -> bool:
        """Whether it has `force_mime_input_conversion` (Postfix 3.9)."""
        return self.postfix_version >= (3, 9)

    @property
    def supports_sasl_result_delimiter(self) -> bool:
        """Whether it has `smtp_sasl_password_result_delimiter` (Postfix 3.9)."""
        return self.postfix_version >= (3, 9)

    @property
    def postfix_unit_is_hardened(self) -> bool:
        """Whether Postfix may not write `/etc` from inside its own unit (`ProtectSystem=full`)."""
        return self.postfix_unit == "postfix.service"

    @property
    def status_takes_format_json(self) -> bool:
        """Whether `cloud-init status --format json` exists (22.4)."""
        return self.cloud_init_version >= (22, 4)

    @property
    def clean_flags(self) -> tuple[str, ...]:
        """The flags of `cloud-init clean` here: `--machine-id` from 22.3, `--configs` from 23.4."""
        flags = ["--logs", "--seed"]
        if self.cloud_init_version >= (22, 3):
            flags.append("--machine-id")
        if self.cloud_init_version >= (23, 4):
            flags += ["--configs", "all"]
        return tuple(flags)


def _release(
    name: str,
    codename: str,
    *,
    python: str,
    postfix: str,
    cloud_init: str,
    systemd: int,
    status_exits_2: bool,
) -> Release:
    family, _, version = name.partition("-")
    # One hardened unit in place of one for each instance: Debian 3.9.1-7.
    modern = _numbers(postfix) >= (3, 10)
    return Release(
        name=name,
        family=family,
        version=version,
        codename=codename,
        python=python,
        postfix=postfix,
        cloud_init=cloud_init,
        systemd=systemd,
        postfix_unit="postfix.service" if modern else "postfix@-.service",
        # Ubuntu 26.04 runs Postfix without chroot (Debian 3.10.6-4); Debian 13 still has it.
        postfix_chroot=family == "debian" or not modern,
        status_exits_2=status_exits_2,
        architectures=_ARCHITECTURES[family],
    )


def _numbers(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


# `cloud-init status` tells recoverable errors by exit code 2 from 23.4 on, but not on the Ubuntu releases
# that were out by then (facts: their packages are patched).
# fmt: off
RELEASES: dict[str, Release] = {release.name: release for release in (
    _release("ubuntu-20.04", "focal", python="3.8", postfix="3.4.13", cloud_init="24.4", systemd=245,
             status_exits_2=False),
    _release("ubuntu-22.04", "jammy", python="3.10", postfix="3.6.4", cloud_init="26.1", systemd=249,
             status_exits_2=False),
    _release("ubuntu-24.04", "noble", python="3.12", postfix="3.8.6", cloud_init="26.1", systemd=255,
             status_exits_2=True),
    _release("ubuntu-26.04", "resolute", python="3.14", postfix="3.10.6", cloud_init="26.1", systemd=259,
             status_exits_2=True),
    _release("debian-11", "bullseye", python="3.9", postfix="3.5.25", cloud_init="20.4", systemd=247,
             status_exits_2=False),
    _release("debian-12", "bookworm", python="3.11", postfix="3.7.11", cloud_init="22.4", systemd=252,
             status_exits_2=False),
    _release("debian-13", "trixie", python="3.13", postfix="3.10.13", cloud_init="25.1", systemd=257,
             status_exits_2=True),
)}
# fmt: on


def get_release(name: str) -> Release:
    """Return the release of that name; BuilderError with the known names and the nearest one."""
    release = RELEASES.get(name)
    if release is not None:
        return release
    near = difflib.get_close_matches(name, RELEASES, n=1)
    known = ", ".join(f"`{known}`" for known in RELEASES)
    raise BuilderError(
        f"There is no release `{name}`; known are {known}",
        hint=f"Did you mean `{near[0]}`?" if near else "See `builder base list`",
    )
