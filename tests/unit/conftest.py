"""Unit tests start nothing and connect to nothing; each has an environment and a home of its own."""

from __future__ import annotations

import ipaddress
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from builder.standin.provider import Provider

# Of the user's environment a unit test sees only these.
_KEPT = (
    "PATH",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "PYTHONDONTWRITEBYTECODE",
    "PYTEST_XDIST_WORKER",
    "PYTEST_CURRENT_TEST",
)


class Guard:
    """What the running unit test may do; `broken` are the rules that it broke."""

    def __init__(self, programs: frozenset[str], folders: tuple[Path, ...]) -> None:
        self.programs = programs
        self.folders = folders
        self.broken: list[str] = []

    def check_program(self, executable: str, environment: Mapping[str, str] | None) -> None:
        """Stop a program that is neither a fake one nor allowed by the test's marker."""
        path = (environment or os.environ).get("PATH")
        found = Path(shutil.which(executable, path=path) or executable)
        if found.name in self.programs or any(folder in found.resolve().parents for folder in self.folders):
            return
        if not found.exists():  # nothing starts; the test is about a program that is missing
            return
        self._stop(f"a unit test started `{found}`: use `fake_tool`, or mark it `allow_programs`")

    def check_address(self, address: object) -> None:
        """Stop a connection that would leave the machine."""
        if not isinstance(address, tuple):  # a Unix socket
            return
        host = str(address[0])
        if host != "localhost" and not _is_loopback(host):
            self._stop(f"a unit test opened a connection to `{host}`: only loopback is allowed")

    def _stop(self, message: str) -> None:
        self.broken.append(message)
        raise AssertionError(message)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


_guard: Guard | None = None


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    """Judge Python's own events, so that no way to start or connect is missed (its audit events table)."""
    if _guard is None:
        return
    if event == "subprocess.Popen":
        _guard.check_program(os.fsdecode(arguments[0]), arguments[3])
    elif event in ("os.exec", "os.posix_spawn"):
        _guard.check_program(os.fsdecode(arguments[0]), arguments[2])
    elif event == "os.system":
        _guard.check_program("/bin/sh", None)
    elif event in ("socket.connect", "socket.sendto"):
        _guard.check_address(arguments[1])


sys.addaudithook(_audit)


@pytest.fixture(autouse=True)
def _no_programs_no_network(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    global _guard
    marker = request.node.get_closest_marker("allow_programs")
    programs = frozenset(marker.args if marker else ())
    guard = _guard = Guard(programs, (tmp_path_factory.getbasetemp().resolve(),))
    yield
    _guard = None
    # Also when the code under test swallowed the AssertionError.
    assert not guard.broken, "; ".join(guard.broken)


@pytest.fixture(autouse=True)
def _clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name not in _KEPT:
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("BUILDER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("BUILDER_IMAGES", str(tmp_path / "images"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def provider() -> Iterator[Provider]:
    """A provider stand-in with the user of `standin_client`; nothing may go wrong inside it."""
    from tests.unit.standin_client import new_provider  # the stand-in takes half a second to import

    with new_provider() as running:
        yield running
        assert running.errors == ()
