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


def _matching(folder: Path, table: str, keys: list[str]) -> set[str]:
    """Return the keys that a table has a result for; a warning of Postfix fails the test."""
    path = folder / "table.regexp"
    path.write_text(table)
    command: Sequence[str | Path] = ["postmap", "-c", folder, "-q", "-", f"regexp:{path}"]
    ended = process.run(command, stdin="\n".join(keys) + "\n", check=False)
    assert not ended.stderr, ended.stderr
    return {line.partition("\t")[0] for line in ended.stdout.splitlines()}


@pytest.mark.parametrize("pattern", [pattern for pattern, _yes, _no in ACCEPTED])
def test_postfix_reads_a_pattern_as_builder_does(pattern: str, release: Release, folder: Path) -> None:
    rule = {"pattern": pattern, "kind": "regexp", "action": "reject", "text": "you owe $5"}
    files = rendered("ses", release.name, access={"senders": {"rules": [rule]}})
    table = files["root/etc/postfix/sender_access.regexp"]
    ours = {key for key in _KEYS if re.search(as_python(pattern), key, re.IGNORECASE)}
    assert _matching(folder, table, _KEYS) == ours


@pytest.mark.parametrize("pattern", ["a{", "{b}", "[[.hyphen.]]", "*a", "[z-a]"])
def test_what_builder_refuses_postfix_skips(pattern: str, release: Release, folder: Path) -> None:
    with pytest.raises(AssertionError, match="warning: regexp map"):
        _matching(folder, f"/{pattern}/  REJECT\n", ["a"])
