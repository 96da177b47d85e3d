"""Assert on a finished image, from outside, that nothing of its bake is left and nothing in it is secret.

Each assertion answers a line of `packer/scripts/seal.sh` or `finish.sh`. The image is neither booted nor
mounted, so what is seen is what every instance launched from it gets.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from builder import disk
from builder.disk import Entry, FileSystem
from builder.scratch import Scratch

_QUEUES = (
    "active", "bounce", "corrupt", "defer", "deferred", "flush",
    "hold", "incoming", "maildrop", "saved", "trace",
)  # fmt: skip
_HISTORIES = {
    ".bash_history", ".python_history", ".lesshst", ".viminfo", ".wget-hsts", ".mysql_history",
    ".sudo_as_admin_successful", ".netrc", ".git-credentials", ".pgpass",
}  # fmt: skip
_HOME_FOLDERS = {".aws", ".cache", ".gnupg", ".docker", ".kube"}
_FIRST_PERSON, _NOBODY = 1000, 65534
# A key with a body: programs that read keys hold the first line alone.
_PRIVATE_KEY = re.compile(
    rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----\r?\n"
    rb"(?:[A-Za-z-]+: [^\r\n]+\r?\n)*(?:\r?\n)?[A-Za-z0-9+/=]{40,}\r?\n"
)
# IAM reference, "Unique identifiers". AWS's own examples end in EXAMPLE.
_ACCESS_KEY = re.compile(rb"(?<![A-Za-z0-9+/])(?:AKIA|ASIA)[A-Z2-7]{16}(?![A-Za-z0-9+/])")
_SHARED_LIBRARY = re.compile(r"^(/usr)?/lib/.*\.so[.0-9]*$")
_SHOWN = 8


@dataclass(frozen=True)
class Assertion:
    """One thing that a sealed image must be; `violations` has one line for each place where it is not."""

    name: str
    description: str
    violations: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether nothing was found."""
        return not self.violations

    @property
    def evidence(self) -> str:
        """What was found, in one line."""
        if self.holds:
            return "nothing found"
        more = len(self.violations) - _SHOWN
        return "; ".join(self.violations[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")


class SealedImage:
    """An image laid out in a raw file, with the listings that the assertions share."""

    def __init__(self, raw: Path, *, forbidden: Mapping[str, bytes] | None = None) -> None:
        self.raw = raw
        self.root = disk.find_root(raw)
        self.systems: list[FileSystem] = disk.find_file_systems(raw)
        self.forbidden = dict(forbidden or {})

    @cached_property
    def _tree(self) -> list[Entry]:
        return self.root.walk("/etc", "/root", "/home", "/tmp", "/var")  # noqa: S108  of the image

    def below(self, *folders: str) -> list[Entry]:
        """Return everything below these folders of /etc, /root, /home, /tmp and /var."""
        starts = tuple(f"{folder.rstrip('/')}/" for folder in folders)
        return [entry for entry in self._tree if entry.path.startswith(starts)]

    def at(self, *paths: str) -> list[Entry]:
        """Return those of these paths that exist; `*` stands for any characters within a name."""
        return [entry for entry in self._tree if any(PurePosixPath(entry.path).match(p) for p in paths)]

    @cached_property
    def matches(self) -> list[tuple[int, bytes]]:
        """Offset and text of everything on the disk that looks like a secret, in one pass."""
        needles: dict[bytes, re.Pattern[bytes] | None] = dict.fromkeys(self.forbidden.values())
        needles |= {b"-----BEGIN ": _PRIVATE_KEY, b"AKIA": _ACCESS_KEY, b"ASIA": _ACCESS_KEY}
        return disk.search(self.raw, needles)

    def owner(self, position: int) -> str:
        """Return whose byte of the disk this is."""
        inside = [system for system in self.systems if system.offset <= position]
        return inside[-1].owner(position) if inside else "outside any file system"


def inspect_image(
    image: Path, *, image_format: str = "qcow2", forbidden: Mapping[str, bytes] | None = None
) -> list[Assertion]:
    """Check a finished image. `forbidden` names bytes that must be nowhere on its disk.

    Needs room for the image's data in the folder for temporary files. Errors: BuilderError when the image
    cannot be read.
    """
    with Scratch("hygiene") as folder:
        raw = folder / "disk.raw"
        disk.write_raw(image, image_format, raw)
        return inspect_raw(raw, forbidden=forbidden)


def inspect_raw(raw: Path, *, forbidden: Mapping[str, bytes] | None = None) -> list[Assertion]:
    """Check an image that is laid out as a raw file."""
    image = SealedImage(raw, forbidden=forbidden)
    return [
        Assertion(name, description, tuple(find(image))) for name, (description, find) in ASSERTIONS.items()
    ]


def _host_keys(image: SealedImage) -> Iterable[str]:
    return _paths(image.at("/etc/ssh/ssh_host_*"))


def _machine_id(image: SealedImage) -> Iterable[str]:
    found = image.at("/etc/machine-id")
    if not found:
        # Without the file systemd takes the root file system for a read-only one: machine-id(5).
        yield "/etc/machine-id is missing; it must be there and empty"
    elif image.root.read("/etc/machine-id").strip() not in ("", "uninitialized"):
        yield "/etc/machine-id has a value"
    yield from _paths(entry for entry in image.at("/var/lib/dbus/machine-id") if not entry.is_link)


def _users(image: SealedImage) -> Iterable[str]:
    files = ["/etc/passwd", "/etc/passwd-"]
    for path, text in image.root.read_all(files).items():
        for line in text.splitlines():
            parts = line.split(":")
            if len(parts) > 2 and parts[2].isdigit() and _FIRST_PERSON <= int(parts[2]) < _NOBODY:
                yield f"user `{parts[0]}` in {path}"
    yield from _paths(entry for entry in image.below("/home") if entry.path.count("/") == 2)
    yield from _paths(entry for entry in image.below("/etc/sudoers.d") if entry.name != "README")


def _passwords(image: SealedImage) -> Iterable[str]:
    for path, text in image.root.read_all(["/etc/shadow", "/etc/shadow-"]).items():
        for line in text.splitlines():
            user, _, rest = line.partition(":")
            password = rest.partition(":")[0]
            if password[:1] not in ("*", "!"):
                yield f"user `{user}` in {path} has {'a password' if password else 'an empty password'}"


def _authorized_keys(image: SealedImage) -> Iterable[str]:
    keys = [entry for entry in image.below("/root", "/home", "/etc/ssh") if "authorized_keys" in entry.name]
    yield from _paths(entry for entry in keys if entry.size or entry.is_link)
    private = [entry for entry in image.below("/root", "/home") if "/.ssh/id_" in entry.path]
    yield from _paths(private)


def _cloud_init(image: SealedImage) -> Iterable[str]:
    folders = ("instances", "data", "sem", "seed", "handlers")
    yield from _paths(e for e in image.below(*(f"/var/lib/cloud/{name}" for name in folders)) if e.is_file)
    yield from _paths(image.at("/var/lib/cloud/instance"))


def _network(image: SealedImage) -> Iterable[str]:
    return _paths(
        image.at(
            "/etc/netplan/50-cloud-init.yaml",
            "/etc/network/interfaces.d/50-cloud-init*",
            "/etc/systemd/network/10-cloud-init-*",
            "/etc/udev/rules.d/70-persistent-net.rules",
        )
    )


def _logs(image: SealedImage) -> Iterable[str]:
    return _paths(entry for entry in image.below("/var/log") if entry.is_file and entry.size)


def _apt(image: SealedImage) -> Iterable[str]:
    lists = (e for e in image.below("/var/lib/apt/lists") if e.is_file and e.name != "lock")
    yield from _paths(lists)
    yield from _paths(image.at("/var/cache/apt/*.bin", "/var/cache/apt/archives/*.deb"))
    yield from _paths(image.at("/etc/apt/apt.conf.d/*proxy*"))


def _random_seed(image: SealedImage) -> Iterable[str]:
    return _paths(
        image.at(
            "/var/lib/systemd/random-seed",
            "/var/lib/systemd/credential.secret",
            "/var/lib/urandom/random-seed",
        )
    )


def _history(image: SealedImage) -> Iterable[str]:
    for entry in image.below("/root", "/home"):
        is_history = entry.name in _HISTORIES or entry.path.endswith("/.ssh/known_hosts")
        if is_history or entry.name in _HOME_FOLDERS:
            yield entry.path


def _leases(image: SealedImage) -> Iterable[str]:
    folders = ("/var/lib/dhcp", "/var/lib/dhcpcd", "/var/lib/NetworkManager")
    return _paths(entry for entry in image.below(*folders) if entry.is_file)


def _mail(image: SealedImage) -> Iterable[str]:
    queues = image.below(*(f"/var/spool/postfix/{name}" for name in _QUEUES))
    yield from _paths(entry for entry in queues if entry.is_file)
    yield from _paths(e for e in image.below("/var/mail", "/var/spool/mail") if e.is_file and e.size)


def _relay_state(image: SealedImage) -> Iterable[str]:
    yield from _paths(image.at("/etc/relay/boot.json"))
    yield from _paths(entry for entry in image.below("/var/lib/relay") if entry.is_file)
    yield from _paths(image.at("/etc/postfix/sasl_passwd*"))
    # smtpd.conf says where the submission port's users will be; it is rendered and holds none.
    sasl = image.below("/etc/postfix/sasl")
    yield from _paths(entry for entry in sasl if entry.is_file and not entry.path.endswith("/smtpd.conf"))


def _temporary(image: SealedImage) -> Iterable[str]:
    folders = ("/tmp", "/var/tmp", "/var/crash", "/var/lib/systemd/coredump")  # noqa: S108  of the image
    return _paths(entry for entry in image.below(*folders) if not entry.is_directory)


def _host_name(image: SealedImage) -> Iterable[str]:
    name = image.root.read("/etc/hostname").strip()
    if name not in ("", "localhost"):
        yield f"/etc/hostname is `{name}`"


def _smtp_closed(image: SealedImage) -> Iterable[str]:
    for line in image.root.read("/etc/postfix/master.cf").splitlines():
        if re.match(r"(\S+:)?(smtp|25)\s+inet\s", line):
            yield f"/etc/postfix/master.cf has `{' '.join(line.split())}`"


def _private_keys(image: SealedImage) -> Iterable[str]:
    found = [(image.owner(at), at, text) for at, text in image.matches if text.startswith(b"-----BEGIN")]
    # Libraries (libgnutls) carry keys to test themselves with: published, so no secret, wherever they lie.
    published = {text for owner, _at, text in found if _SHARED_LIBRARY.search(owner)}
    for owner, at, text in found:
        if text not in published:
            kind = text.splitlines()[0].decode().strip("-").removeprefix("BEGIN ").lower()
            yield f"{kind} at byte {at}: {owner}"


def _secrets(image: SealedImage) -> Iterable[str]:
    names = {value: name for name, value in image.forbidden.items()}
    for position, text in image.matches:
        if text in names:
            yield f"{names[text]} at byte {position}: {image.owner(position)}"
        elif _ACCESS_KEY.fullmatch(text) and not text.endswith(b"EXAMPLE"):
            yield f"an AWS access key id ({text[:8].decode()}…) at byte {position}: {image.owner(position)}"


def _clean(image: SealedImage) -> Iterable[str]:
    for system in image.systems:
        if system.state() != "clean":
            yield f"the file system at byte {system.offset} is `{system.state()}`"


def _paths(entries: Iterable[Entry]) -> list[str]:
    return [entry.path for entry in entries]


Find = Callable[[SealedImage], Iterable[str]]
# fmt: off
ASSERTIONS: dict[str, tuple[str, Find]] = {
    "no-host-keys": ("no SSH host keys: each instance makes its own", _host_keys),
    "machine-id-empty": ("the machine id is empty: each instance makes its own", _machine_id),
    "no-bake-user": ("no user but the system's, no home, no sudo rule", _users),
    "no-passwords": ("every account is locked, root too", _passwords),
    "no-authorized-keys": ("nobody's key opens a login, not even root's", _authorized_keys),
    "no-cloud-init-state": ("cloud-init has no memory of the bake and no seed", _cloud_init),
    "no-network-names": ("no network card or address of the build VM", _network),
    "no-logs": ("all logs are empty", _logs),
    "no-apt-lists": ("no package lists, packages or proxy of the bake", _apt),
    "no-random-seed": ("no random seed or host credential to share", _random_seed),
    "no-history": ("no shell history or personal files", _history),
    "no-leases": ("no DHCP leases", _leases),
    "no-mail": ("no message in the queue or a mailbox", _mail),
    "no-relay-state": ("the relay has no boot settings, state or password map", _relay_state),
    "no-temporary-files": ("no temporary files or core files", _temporary),
    "no-host-name": ("no host name of the build VM", _host_name),
    "smtp-closed": ("port 25 is closed as baked", _smtp_closed),
    "no-private-keys": ("no private key anywhere on the disk, free space included", _private_keys),
    "no-secrets": ("nothing that looks like a credential anywhere on the disk", _secrets),
    "clean-file-systems": ("every file system was closed in order", _clean),
}
# fmt: on
