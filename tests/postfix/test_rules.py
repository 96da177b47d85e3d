"""Access rules before Postfix itself: `postmap -q` answers as builder reads the pattern, with no warning."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from builder import process
from builder.posix_regex import as_python
from builder.releases import Release
from tests.rendered import rendered
from tests.unit.test_posix_regex import ACCEPTED

pytestmark = pytest.mark.postfix

_KEYS = sorted({key for _pattern, yes, no in ACCEPTED for key in (yes, no)})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A configuration that is enough for postmap."""
    path = tmp_path / "main.cf"
    path.write_text("compatibility_level = 3.5\nmyhostname = relay.example.com\n")
    # Postfix waits up to 2 s for a file that has just changed, in case it is half written.
    os.utime(path, (0, 0))
    return tmp_path


def _results(folder: Path, table: str, keys: list[str]) -> dict[str, str]:
    """Return what a table has for each key that it knows; a warning of Postfix fails the test."""
    path = folder / "table.regexp"
    path.write_text(table)
    command: Sequence[str | Path] = ["postmap", "-c", folder, "-q", "-", f"regexp:{path}"]
    ended = process.run(command, stdin="\n".join(keys) + "\n", check=False)
    assert not ended.stderr, ended.stderr
    pairs = [line.partition("\t") for line in ended.stdout.splitlines()]
    return {key: result for key, _tab, result in pairs}


@pytest.mark.parametrize("pattern", [pattern for pattern, _yes, _no in ACCEPTED])
def test_postfix_reads_a_pattern_as_builder_does(pattern: str, release: Release, folder: Path) -> None:
    rule = {"pattern": pattern, "kind": "regexp", "action": "reject", "text": "you owe $5"}
    files = rendered("ses", release.name, access={"senders": {"rules": [rule]}})
    table = files["root/etc/postfix/sender_access.regexp"]
    ours = {key for key in _KEYS if re.search(as_python(pattern), key, re.IGNORECASE)}
    assert set(_results(folder, table, _KEYS)) == ours


@pytest.mark.parametrize("pattern", ["a{", "{b}", "[[.hyphen.]]", "*a", "[z-a]"])
def test_what_builder_refuses_postfix_skips(pattern: str, release: Release, folder: Path) -> None:
    with pytest.raises(AssertionError, match="warning: regexp map"):
        _results(folder, f"/{pattern}/  REJECT\n", ["a"])


def test_mail_goes_by_the_route_of_the_deepest_domain_of_its_sender(release: Release, folder: Path) -> None:
    names = {"all": "example.com", "below": "b.example.com"}
    routes = [{"name": n, "preset": "sendgrid", "sender_domains": [domain]} for n, domain in names.items()]
    table = rendered("ses", release.name, routes=routes)["root/etc/postfix/sender_routes.regexp"]
    keys = ["x@example.com", "x@c.example.com", "x@b.example.com", "x@a.b.example.com", "x@notb.example.com"]
    found = {key: result.partition(":")[0] for key, result in _results(folder, table, keys).items()}
    assert found == dict(zip(keys, ["to-all", "to-all", "to-below", "to-below", "to-all"], strict=True))
