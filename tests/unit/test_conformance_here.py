"""The suite on this machine: what is not installed is said for its cases alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.conformance.here import installed_release, lacking
from builder.conformance.setups import SETUPS
from builder.errors import BuilderError


def test_without_opendkim_only_its_cases_are_left_out(tmp_path: Path) -> None:
    left_out = {name: lacking(setup, tmp_path) for name, setup in SETUPS.items()}
    assert {name for name, why in left_out.items() if why} == {"dkim"}
    assert "apt-get install opendkim" in left_out["dkim"]


def test_with_opendkim_nothing_is_left_out(tmp_path: Path) -> None:
    program = tmp_path / "usr/sbin/opendkim"
    program.parent.mkdir(parents=True)
    program.touch()
    assert not any(lacking(setup, tmp_path) for setup in SETUPS.values())


def test_a_tree_without_postfix_is_told_before_anything_runs_in_it(tmp_path: Path) -> None:
    with pytest.raises(BuilderError, match=f"There is no Postfix in `{tmp_path}`") as caught:
        installed_release(tmp_path)
    assert f"chroot {tmp_path} apt-get install postfix" in (caught.value.hint or "")
