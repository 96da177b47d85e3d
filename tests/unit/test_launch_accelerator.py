"""The choice between the processor's virtualisation and software emulation."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.errors import BuilderError
from builder.launch import Accelerator, announce, choose_accelerator


def _choose(
    tmp_path: Path,
    *modules: str,
    requested: str | None = None,
    machine: str = "x86_64",
    device: bool = True,
) -> Accelerator:
    for name in modules:
        (tmp_path / "module" / name / "parameters").mkdir(parents=True)
    if device:
        (tmp_path / "kvm").touch()
    return choose_accelerator(
        requested, machine=machine, sys_module=tmp_path / "module", device=tmp_path / "kvm"
    )


@pytest.mark.parametrize("module", ["kvm_intel", "kvm_amd"])
def test_kvm_is_chosen_where_a_hardware_module_backs_it(tmp_path: Path, module: str) -> None:
    chosen = _choose(tmp_path, "kvm", module)
    assert (chosen.name, chosen.reason) == ("kvm", f"backed by {module}")


def test_a_paravirtual_dev_kvm_is_not_used(tmp_path: Path) -> None:
    chosen = _choose(tmp_path, "kvm", "kvm_pvm")
    assert chosen.name == "tcg"
    assert "is there, but neither kvm_intel nor kvm_amd" in chosen.reason


def test_no_device_is_said(tmp_path: Path) -> None:
    chosen = _choose(tmp_path, device=False)
    assert chosen.name == "tcg"
    assert chosen.reason.startswith("no `")


def test_a_device_that_is_missing_under_a_loaded_module_means_software(tmp_path: Path) -> None:
    chosen = _choose(tmp_path, "kvm_amd", device=False)
    assert chosen.name == "tcg"
    assert "cannot be opened" in chosen.reason


def test_another_processor_means_software(tmp_path: Path) -> None:
    chosen = _choose(tmp_path, "kvm_intel", machine="aarch64")
    assert chosen.name == "tcg"
    assert "aarch64" in chosen.reason


@pytest.mark.parametrize("name", ["kvm", "tcg"])
def test_a_flag_overrides_the_choice(tmp_path: Path, name: str) -> None:
    chosen = _choose(tmp_path, requested=name)
    assert (chosen.name, chosen.reason) == (name, "asked for")


def test_an_unknown_accelerator_is_refused() -> None:
    with pytest.raises(BuilderError, match="`hvf` is not an accelerator"):
        choose_accelerator("hvf")


def test_the_reason_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    slow = Accelerator("tcg", "asked for by this test alone")
    assert (announce(slow), announce(slow)) == ("tcg", "tcg")
    assert capsys.readouterr().err == "Accelerator: tcg (asked for by this test alone)\n"
