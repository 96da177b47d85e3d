"""Which suites a base is built from: what apt on this machine uses, moved to another release."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder import base_packages
from builder.base_packages import Suite
from builder.errors import BuilderError
from builder.releases import RELEASES, get_release
from tests.fakes import FakeTools

MIRROR = "http://mirror.example/debian/"
SECURITY = "http://mirror.example/debian-security/"
TARGETS = (
    f"Debian\tbookworm\tbookworm\tmain\t{MIRROR}\t/none:1\n"
    f"Debian\tbookworm\tbookworm\tcontrib\t{MIRROR}\t/none:1\n"
    f"Debian\tbookworm-updates\tbookworm-updates\tmain\t{MIRROR}\t/none:1\n"
    f"Debian\tbookworm-security\tbookworm-security\tmain\t{SECURITY}\t/none:2\n"
    "Docker\tbookworm\tbookworm\tstable\thttp://other.example/\t/none:3\n"
    f"Debian\tbookworm-backports\tbookworm-backports\tmain\t{MIRROR}\t/none:4\n"
)


@pytest.fixture(autouse=True)
def _apt(fake_tool: FakeTools, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_tool("apt-get", f"printf '%s' '{TARGETS}'")
    fake_tool("apt-config", "exit 0")
    own = {"ID": "debian", "VERSION_CODENAME": "bookworm"}
    monkeypatch.setattr(base_packages, "_own", own.__getitem__)


def names(suites: list[Suite]) -> list[tuple[str, str]]:
    return [(suite.uri, suite.name) for suite in suites]


def test_suites_of_apt_are_moved_to_the_wanted_release() -> None:
    assert names(base_packages.suites(get_release("debian-13"))) == [
        (MIRROR, "trixie"),
        (MIRROR, "trixie-updates"),
        (SECURITY, "trixie-security"),
    ]


def test_components_of_one_suite_are_joined() -> None:
    assert base_packages.suites(get_release("debian-12"))[0].components == ("main", "contrib")


def test_a_sources_list_that_says_stable_is_understood(fake_tool: FakeTools) -> None:
    fake_tool("apt-get", f"printf 'Debian\\ttrixie\\tstable\\tmain\\t{MIRROR}\\t/none:1\\n'")
    assert names(base_packages.suites(get_release("debian-11"))) == [(MIRROR, "bullseye")]


def test_a_machine_without_lists_is_told_to_update(fake_tool: FakeTools) -> None:
    fake_tool("apt-get", "exit 0")
    with pytest.raises(BuilderError, match="has no package lists of Debian") as caught:
        base_packages.suites(get_release("debian-12"))
    assert "apt-get update" in (caught.value.hint or "")


def test_ubuntu_needs_a_mirror_on_a_debian_machine() -> None:
    with pytest.raises(BuilderError, match="no package lists of Ubuntu") as caught:
        base_packages.suites(get_release("ubuntu-24.04"))
    # `apt-get update` would bring no Ubuntu to a Debian machine.
    assert caught.value.hint == "Give the mirror: `builder base build ubuntu-24.04 --mirror URL`"


@pytest.mark.parametrize("mirror", ["notaurl", "mirror.example/ubuntu", "http://", "http://a b/", ""])
def test_a_mirror_that_is_no_address_is_refused_at_once(mirror: str) -> None:
    with pytest.raises(BuilderError, match=f"`{mirror}` is not the address of a package mirror"):
        base_packages.suites(get_release("debian-12"), mirror=mirror)


def test_a_given_mirror_is_used_with_updates_and_security(monkeypatch: pytest.MonkeyPatch) -> None:
    keyring = Path("/keys/ubuntu.gpg")
    monkeypatch.setattr(base_packages, "_standard_keyring", lambda _family: keyring)
    suites = base_packages.suites(get_release("ubuntu-24.04"), mirror="http://mirror.example/ubuntu")
    assert [suite.line() for suite in suites] == [
        f"deb [signed-by=/keys/ubuntu.gpg] http://mirror.example/ubuntu/ noble{suffix} main universe"
        for suffix in ("", "-updates", "-security")
    ]


def test_missing_keys_name_the_package_that_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_packages, "_standard_keyring", lambda _family: None)
    with pytest.raises(BuilderError, match="The keys that sign `ubuntu-24.04`") as caught:
        base_packages.suites(get_release("ubuntu-24.04"), mirror="http://mirror.example/ubuntu")
    assert caught.value.hint == "Run `apt-get install ubuntu-keyring`"


@pytest.mark.parametrize(
    ("file_name", "text", "number"),
    [
        ("a.sources", "Types: deb\nURIs: x\n\nTypes: deb\nURIs: y\nSigned-By: /keys/own.gpg\n", 2),
        ("a.list", "# none\ndeb [arch=amd64 signed-by=/keys/own.gpg] http://x y main\n", 2),
    ],
)
def test_the_keyring_named_in_sources_is_used(
    tmp_path: Path, fake_tool: FakeTools, file_name: str, text: str, number: int
) -> None:
    (tmp_path / file_name).write_text(text)
    line = f"Debian\\tbookworm\\tbookworm\\tmain\\t{MIRROR}\\t{tmp_path / file_name}:{number}\\n"
    fake_tool("apt-get", f"printf '{line}'")
    [suite] = base_packages.suites(get_release("debian-12"))
    assert suite.keyring == Path("/keys/own.gpg")


def apt_helper(monkeypatch: pytest.MonkeyPatch, fake_tool: FakeTools, script: str) -> None:
    tool = fake_tool("apt-helper", "for each; do target=$uri uri=$each; done; " + script)
    monkeypatch.setattr(base_packages, "_APT_HELPER", str(tool.path))


def wanted() -> list[Suite]:
    return base_packages.suites(get_release("debian-12"))


INDEX = "Date: Sat, 12 Sep 2026 07:55:41 UTC"


def test_optional_suites_that_the_mirror_lacks_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_tool: FakeTools
) -> None:
    apt_helper(
        monkeypatch,
        fake_tool,
        'case "$*" in *-updates/*) echo "E: Failed to fetch x  404  Not Found" >&2; exit 100;; esac; '
        f'echo "{INDEX}" >"$uri"',
    )
    found, epoch = base_packages.published(wanted(), get_release("debian-12"), tmp_path)
    assert [suite.name for suite in found] == ["bookworm", "bookworm-security"]
    assert epoch == 1789199741


def test_a_mirror_without_the_release_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_tool: FakeTools
) -> None:
    apt_helper(monkeypatch, fake_tool, 'echo "E: Failed to fetch $target  404  Not Found" >&2; exit 100')
    with pytest.raises(BuilderError, match="does not serve `bookworm`: 404  Not Found") as caught:
        base_packages.published(wanted(), get_release("debian-12"), tmp_path)
    assert "--mirror URL" in (caught.value.hint or "")


def test_a_mirror_that_cannot_be_reached_is_an_error_also_for_an_optional_suite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_tool: FakeTools
) -> None:
    apt_helper(
        monkeypatch,
        fake_tool,
        'case "$*" in *-security/*) echo "E: Failed to fetch $target  Could not connect" >&2; exit 100;; '
        f'esac; echo "{INDEX}" >"$uri"',
    )
    with pytest.raises(BuilderError, match="`bookworm-security`: Could not connect"):
        base_packages.published(wanted(), get_release("debian-12"), tmp_path)


def test_proxies_and_certificates_of_apt_are_handed_on(fake_tool: FakeTools) -> None:
    dump = (
        'Acquire "";\nAcquire::http "";\nAcquire::http::Proxy "http://proxy.example:3128/";\n'
        'Acquire::https::CaInfo "/etc/ca.pem";\nAPT::Install-Recommends "1";\n'
    )
    fake_tool("apt-config", f"printf '%s' '{dump}'")
    assert base_packages.apt_options() == {
        "Acquire::Retries": "3",
        "Acquire::http::Proxy": "http://proxy.example:3128/",
        "Acquire::https::CaInfo": "/etc/ca.pem",
    }


@pytest.mark.parametrize("name", RELEASES)
def test_every_release_boots_both_ways_and_grows(name: str) -> None:
    packages = base_packages.packages(get_release(name))
    assert {"cloud-init", "openssh-server", "cloud-guest-utils", "netplan.io"} <= set(packages)
    assert {"grub-pc-bin", "grub-efi-amd64-signed", "shim-signed"} <= set(packages)
    assert "ifupdown" not in packages


@pytest.mark.parametrize(
    ("name", "separate"),
    [("debian-11", False), ("debian-12", True), ("ubuntu-22.04", False), ("ubuntu-24.04", True)],
)
def test_resolved_is_a_package_of_its_own_from_systemd_252(name: str, separate: bool) -> None:
    assert ("systemd-resolved" in base_packages.packages(get_release(name))) is separate


def test_the_kernel_is_that_of_the_cloud_images() -> None:
    assert base_packages.kernel_package(get_release("debian-12")) == "linux-image-cloud-amd64"
    assert base_packages.kernel_package(get_release("ubuntu-24.04")) == "linux-image-virtual"
