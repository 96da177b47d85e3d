"""Fixtures of the agent's tests: its files under a folder, and the stand-ins on loopback."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from relay_agent import logs, loops
from relay_agent.places import Places
from relay_agent.secret import Library

from builder.standin.metadata import Metadata
from builder.standin.provider import Provider
from builder.standin.secrets import SecretsManager
from tests.agent.clock import Clock
from tests.agent.relay_world import PASSWORD, USER, FakePostfix, greeter, make_places
from tests.agent.relayctl_world import Ctl
from tests.fakes import FakeTools


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing of the user's AWS settings reaches the agent, and no secret of another test is known."""
    for name in list(os.environ):
        if name.startswith("AWS_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    yield
    logs._secrets.clear()
    logs._passing.clear()
    loops.forget()


@pytest.fixture
def places(tmp_path: Path) -> Iterator[Places]:
    """The tree of a relay, and a port that greets as its port 25."""
    with greeter() as port:
        yield make_places(tmp_path / "root", port)


@pytest.fixture
def files(tmp_path: Path) -> Places:
    """The tree of a relay whose port 25 nobody asks."""
    return make_places(tmp_path / "root")


@pytest.fixture
def clock() -> Clock:
    """A clock that moves when a test moves it."""
    return Clock()


@pytest.fixture
def postfix_programs(tmp_path: Path, places: Places, fake_tool: FakeTools) -> FakePostfix:
    """Postfix's programs, faked; Postfix runs and port 25 is closed."""
    return FakePostfix(tmp_path / "postfix", places, fake_tool)


@pytest.fixture
def ctl(places: Places, postfix_programs: FakePostfix, fake_tool: FakeTools) -> Ctl:
    """relayctl on that relay."""
    return Ctl(places, postfix_programs, fake_tool)


@pytest.fixture(scope="session")
def _provider() -> Iterator[Provider]:
    with Provider(users={USER: PASSWORD}, host_names=("localhost",)) as provider:
        yield provider


@pytest.fixture
def provider(_provider: Provider) -> Iterator[Provider]:
    """The provider stand-in; its user is USER with PASSWORD."""
    _provider.clear()
    _provider.forget()
    _provider.set_password(USER, PASSWORD)
    _provider.forget_old_passwords(USER)
    yield _provider
    _provider.clear()


@pytest.fixture
def ca_file(tmp_path: Path, provider: Provider) -> Path:
    """The certificate authority of the provider stand-in."""
    path = tmp_path / "ca.pem"
    path.write_text(provider.ca_pem)
    return path


@pytest.fixture(scope="session")
def _secrets() -> Iterator[SecretsManager]:
    with SecretsManager() as secrets:
        yield secrets


@pytest.fixture
def secrets(_secrets: SecretsManager) -> Iterator[SecretsManager]:
    """The Secrets Manager stand-in, with nothing in it."""
    _secrets.clear()
    for name in tuple(_secrets._names):
        _secrets.delete(name)
    yield _secrets
    _secrets.clear()


@pytest.fixture(scope="module")
def library() -> Library:
    """The AWS library, which takes a second to load."""
    library = Library()
    library.start()
    return library


@pytest.fixture
def metadata() -> Iterator[Metadata]:
    """The metadata stand-in of this test."""
    with Metadata() as metadata:
        yield metadata
