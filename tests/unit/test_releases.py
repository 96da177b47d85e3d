"""The table of releases."""

from __future__ import annotations

import pytest

from builder.errors import BuilderError
from builder.releases import RELEASES, get_release


def test_all_seven_releases_are_known() -> None:
    assert list(RELEASES) == [
        "ubuntu-20.04",
        "ubuntu-22.04",
        "ubuntu-24.04",
        "ubuntu-26.04",
        "debian-11",
        "debian-12",
        "debian-13",
    ]


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("ubuntu-20.04", "2"),
        ("debian-11", "2"),
        ("ubuntu-22.04", "3.6"),
        ("debian-12", "3.7"),
        ("ubuntu-24.04", "3.8"),
        ("debian-13", "3.10"),
        ("ubuntu-26.04", "3.10"),
    ],
)
def test_compatibility_level_is_an_integer_before_postfix_3_6(name: str, level: str) -> None:
    assert get_release(name).compatibility_level == level


@pytest.mark.parametrize("name", RELEASES)
def test_tls_protocols_use_the_floor_where_it_is_understood(name: str) -> None:
    release = get_release(name)
    expected = ">=TLSv1.2" if release.postfix_version >= (3, 6) else "!SSLv2, !SSLv3, !TLSv1, !TLSv1.1"
    assert release.tls_protocols == expected


def test_minor_versions_are_compared_as_numbers() -> None:
    assert get_release("debian-13").postfix_version > get_release("ubuntu-24.04").postfix_version
    assert not get_release("debian-13").must_forbid_bare_newline
    assert get_release("ubuntu-24.04").must_forbid_bare_newline


def test_only_postfix_3_4_lacks_relayhost_lists() -> None:
    lacking = [name for name, release in RELEASES.items() if not release.supports_relayhost_list]
    assert lacking == ["ubuntu-20.04"]


def test_newer_packages_run_postfix_from_the_plain_unit() -> None:
    plain = [name for name, each in RELEASES.items() if each.postfix_unit == "postfix.service"]
    assert plain == ["ubuntu-26.04", "debian-13"]
    assert not get_release("ubuntu-26.04").postfix_chroot
    assert get_release("debian-13").postfix_chroot


def test_exit_code_2_of_cloud_init_is_known_per_release() -> None:
    quirky = [name for name, release in RELEASES.items() if not release.status_exits_2]
    assert quirky == ["ubuntu-20.04", "ubuntu-22.04", "debian-11", "debian-12"]


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("debian-11", ("--logs", "--seed")),
        ("debian-12", ("--logs", "--seed", "--machine-id")),
        ("debian-13", ("--logs", "--seed", "--machine-id", "--configs", "all")),
        ("ubuntu-20.04", ("--logs", "--seed", "--machine-id", "--configs", "all")),
    ],
)
def test_clean_flags_are_those_the_version_has(name: str, flags: tuple[str, ...]) -> None:
    assert get_release(name).clean_flags == flags


def test_unknown_release_lists_known_ones_and_the_nearest() -> None:
    with pytest.raises(BuilderError) as caught:
        get_release("ubuntu-24.4")
    assert "`debian-13`" in caught.value.message
    assert caught.value.hint == "Did you mean `ubuntu-24.04`?"


def test_a_name_like_no_other_points_to_the_list() -> None:
    with pytest.raises(BuilderError) as caught:
        get_release("windows")
    assert caught.value.hint == "See `builder base list`"
