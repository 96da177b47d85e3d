"""Tests of which version of a secret is used: one that ends while a newer one is no good, one at boot."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from relay_agent import metrics
from relay_agent.imds import Imds
from relay_agent.keeper import Keeper
from relay_agent.oauth import AccessToken, TokenRequest
from relay_agent.places import Places
from relay_agent.probe import Prover
from relay_agent.secret import CURRENT, PREVIOUS, Library, SecretStore, SecretVersion
from relay_agent.settings import Shape, Upstream
from relay_agent.trouble import Trouble

from builder.standin.metadata import Metadata
from builder.standin.provider import Provider
from builder.standin.secrets import SecretsManager
from tests.agent.relay_world import PASSWORD, SECRET, USER, FakePostfix
from tests.agent.relayctl_world import Ctl
from tests.agent.scripted_relay import AUTH_LINE, BUSY, REFUSED, Relay
from tests.agent.test_agent_health import UPSTREAM
from tests.agent.test_agent_rotation import see_log
from tests.fakes import FakeTools

UNREACHABLE = Trouble("upstream-unreachable", "localhost:587 cannot be reached")


@pytest.fixture
def relay(places: Places, postfix_programs: FakePostfix) -> Relay:
    return Relay(places, postfix_programs)


@pytest.fixture
def rotating(relay: Relay) -> Relay:
    """A relay that uses v1 while the provider refuses v2, the current version."""
    relay.rounds()
    relay.versions[SECRET] = ("v2", "password-2")
    relay.answers["password-2"] = REFUSED
    relay.rounds(1, seconds=67)
    assert relay.state == "ready"
    return relay


def suspect(relay: Relay, *, seconds: float = 11) -> None:
    """Let a delivery fail with 535, and the agent come by some time later."""
    see_log(relay, AUTH_LINE)
    relay.rounds(1, seconds=seconds)


# -- the version in use ends while a newer one is refused


def test_a_dead_credential_is_not_called_proven_because_a_newer_one_is_refused(rotating: Relay) -> None:
    rotating.answers["password-1"] = REFUSED
    suspect(rotating)
    assert (rotating.state, rotating.reason) == ("degraded", "auth-refused")
    (shown,) = rotating.board.readiness()["upstreams"]
    assert (shown["state"], shown["version_id"], shown["refused_version"]) == ("refused", "v1", "v2")
    assert "The version in use: the provider said 535; the newest one:" in shown["reason"]["message"]
    page = metrics.render(rotating.board)
    assert 'relay_credential_proven{upstream="primary"} 0' in page
    assert 'relay_credential_version_refused{upstream="primary"} 1' in page
    assert rotating.postfix.is_open


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("proven", "WARNING  rotation: version v2 of `relay/ses` is refused; the old one serves on"),
        ("refused", "WRONG    rotation: version v2 of `relay/ses` is refused, and no other one works"),
    ],
)
def test_relayctl_says_whether_the_old_version_serves(
    places: Places, postfix_programs: FakePostfix, fake_tool: FakeTools, state: str, said: str
) -> None:
    ctl = Ctl(places, postfix_programs, fake_tool)
    shown = {"port": 587, "secret": SECRET, "proven_at": 1000.0, "refused_version": "v2", "state": state}
    ctl.board.set(upstreams=[{**UPSTREAM, **shown}])
    ctl.board.write()
    assert f" {state}, version v1" in ctl("status")[1]
    assert said in ctl("doctor", "--offline")[1]


def test_the_newer_version_is_taken_when_it_works_after_all(rotating: Relay) -> None:
    rotating.answers["password-1"] = REFUSED
    suspect(rotating)
    del rotating.answers["password-2"]
    rotating.rounds(1, seconds=61)
    assert rotating.state == "ready"
    assert rotating.map == "localhost user:password-2\n"
    assert rotating.board.values()["upstreams"][0]["refused_version"] is None


def test_the_version_in_use_is_noticed_when_it_works_again(rotating: Relay) -> None:
    rotating.answers["password-1"] = REFUSED
    suspect(rotating)
    del rotating.answers["password-1"]
    flushes = rotating.postfix.flushes
    rotating.rounds(1, seconds=61)
    assert rotating.state == "ready"
    assert rotating.postfix.flushes == flushes + 1
    assert rotating.board.values()["upstreams"][0]["refused_version"] == "v2"


def test_a_suspicion_without_ground_changes_nothing(rotating: Relay) -> None:
    reloads = rotating.postfix.reloads
    suspect(rotating)
    assert rotating.probes[-2:] == ["password-2", "password-1"]
    assert rotating.state == "ready"
    rotating.rounds(3, seconds=61)
    assert rotating.probes.count("password-1") == 2
    assert rotating.postfix.reloads == reloads


def test_a_dead_credential_is_found_while_secrets_manager_is_away(relay: Relay) -> None:
    relay.rounds()
    relay.fetch_trouble = Trouble("endpoint-unreachable", "no route to Secrets Manager")
    relay.answers["password-1"] = REFUSED
    suspect(relay)
    assert (relay.state, relay.reason) == ("degraded", "auth-refused")
    assert "no route to Secrets Manager" in relay.board.readiness()["message"]


@pytest.mark.parametrize("trouble", [BUSY, UNREACHABLE], ids=["454", "unreachable"])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_doubt_remains_until_the_provider_answers(relay: Relay, trouble: Trouble, version: str) -> None:
    relay.rounds()
    if version == "v2":
        relay.versions[SECRET] = ("v2", "")
        relay.rounds(1, seconds=67)
    relay.answers["password-1"] = trouble
    suspect(relay)
    assert relay.state == "ready"
    relay.answers["password-1"] = REFUSED
    relay.rounds(1, seconds=67)
    assert (relay.state, relay.reason) == ("degraded", "auth-refused")


@pytest.mark.parametrize("is_away", [False, True])
def test_refused_passwords_are_not_tried_in_a_tight_loop(rotating: Relay, is_away: bool) -> None:
    rotating.answers["password-1"] = REFUSED
    if is_away:
        # Secrets Manager is asked again within seconds; the provider is not.
        rotating.fetch_trouble = Trouble("endpoint-unreachable", "down")
    suspect(rotating)
    rotating.rounds(12, seconds=61)
    before, start = len(rotating.probes), rotating.now
    while rotating.now < start + 3600:
        see_log(rotating, AUTH_LINE)
        rotating.rounds(1, seconds=1)
    # On the average every 30 s, one password or both.
    assert 60 <= (len(rotating.probes) - before) / (1 if is_away else 2) <= 240


def test_an_access_token_is_renewed_while_a_newer_grant_is_refused() -> None:
    shape = Shape("oauth", ("name", "token"), "{name}", "{token}", None, "https://x/", "refresh_token")
    upstream = Upstream("primary", "localhost", 587, "starttls", (shape,), ("xoauth2",), "s", None)
    now, refused, tokens = [0.0], set[str](), list[str]()
    grants = ["grant-1"]

    def fetch(_upstream: Upstream, _stage: str = CURRENT) -> SecretVersion:
        return SecretVersion(json.dumps({"name": "u", "token": grants[-1]}), grants[-1], 1.0)

    def exchange(request: TokenRequest) -> AccessToken:
        if request.form["refresh_token"] in refused:
            raise Trouble("token-refused", "invalid_grant", lasting=True)
        tokens.append(f"{request.form['refresh_token']}-access-{len(tokens)}")
        return AccessToken(tokens[-1], 3600)

    keeper = Keeper(
        upstream,
        fetch=fetch,
        prove=lambda _upstream, _login: None,
        exchange=exchange,
        poll_seconds=60,
        monotonic=lambda: now[0],
    )
    keeper.check()
    grants.append("grant-2")
    refused.add("grant-2")
    while now[0] < 2 * 3600:
        now[0] += 61
        keeper.check()
    assert tokens == ["grant-1-access-0", "grant-1-access-1", "grant-1-access-2"]
    assert keeper.is_proven
    assert keeper.current is not None
    assert keeper.current.credential.password == "grant-1-access-2"


# -- the version before, after a boot


@pytest.mark.parametrize("is_fresh", [True, False], ids=["fresh", "rebooted"])
@pytest.mark.parametrize("password", ["password-2", ""], ids=["refused", "misshapen"])
def test_a_boot_with_a_version_that_is_no_good_uses_the_one_before(
    relay: Relay, is_fresh: bool, password: str
) -> None:
    if not is_fresh:
        relay.rounds()
    relay.versions[SECRET], relay.previous = ("v2", password), ("v1", "password-1")
    relay.answers["password-2"] = REFUSED
    relay.reboot()
    relay.rounds()
    assert relay.map == "localhost user:password-1\n"
    assert relay.postfix.is_open
    # As during a rotation: mail goes on, and the refused version is reported everywhere.
    (shown,) = relay.board.readiness()["upstreams"]
    assert (shown["state"], shown["version_id"], shown["refused_version"]) == ("proven", "v1", "v2")
    assert shown["reason"]["code"] == ("auth-refused" if password else "secret-shape")
    assert relay.state == "ready"
    page = metrics.render(relay.board)
    assert 'relay_credential_version_refused{upstream="primary"} 1' in page
    assert 'relay_credential_refused_total{upstream="primary"} 1' in page
    relay.rounds(5, seconds=61)
    assert relay.probes.count("password-2") == (6 if password else 0)
    assert relay.fetches_of_previous == 1
    del relay.answers["password-2"]
    relay.versions[SECRET] = ("v3", "password-3")
    relay.rounds(1, seconds=61)
    assert relay.map == "localhost user:password-3\n"
    assert relay.board.readiness()["upstreams"][0]["refused_version"] is None


@pytest.mark.parametrize("trouble", [BUSY, UNREACHABLE], ids=["454", "unreachable"])
def test_a_provider_that_is_merely_away_does_not_bring_the_old_version_back(
    relay: Relay, trouble: Trouble
) -> None:
    relay.versions[SECRET], relay.previous = ("v2", "password-2"), ("v1", "password-1")
    relay.answers["password-2"] = trouble
    relay.rounds(5, seconds=61)
    assert relay.fetches_of_previous == 0
    assert "password-1" not in relay.probes
    assert relay.map == ""


def test_a_working_relay_never_asks_for_the_version_before(rotating: Relay) -> None:
    rotating.previous = ("v1", "password-1")
    rotating.answers["password-1"] = REFUSED
    suspect(rotating)
    rotating.rounds(5, seconds=61)
    assert rotating.fetches_of_previous == 0


@pytest.mark.parametrize("was_ready", [True, False])
def test_a_version_before_that_cannot_be_proven_is_not_used(relay: Relay, was_ready: bool) -> None:
    if was_ready:
        relay.rounds()
    relay.versions[SECRET], relay.previous = ("v2", "password-2"), ("v1", "password-1")
    relay.answers.update({"password-1": UNREACHABLE, "password-2": REFUSED})
    relay.reboot()
    relay.rounds()
    assert (relay.map, relay.postfix.is_open) == ("", was_ready)
    relay.answers["password-1"] = REFUSED
    relay.rounds(1, seconds=61)
    assert relay.map == ""
    message = relay.status["upstreams"][0]["reason"]["message"]
    assert message == "the provider said 535; the version before it: the provider said 535"
    before, start = len(relay.probes), relay.now
    relay.rounds(3600, seconds=1)
    assert relay.now - start == 3600
    assert (len(relay.probes) - before) / 2 <= 240


def test_without_a_version_before_the_reason_is_the_current_ones(relay: Relay) -> None:
    relay.answers["password-1"] = REFUSED
    relay.rounds(3, seconds=61)
    assert relay.fetches_of_previous == 3
    assert relay.status["upstreams"][0]["reason"]["message"] == "the provider said 535"


# -- the same with Secrets Manager's own stages and a provider that answers


@pytest.fixture
def store(library: Library, secrets: SecretsManager, metadata: Metadata) -> Iterator[SecretStore]:
    store = SecretStore(library, Imds(metadata.endpoint, timeout_seconds=1), endpoint=secrets.endpoint)
    yield store
    store.close()


def test_the_version_before_is_fetched_by_its_stage(store: SecretStore, secrets: SecretsManager) -> None:
    first = secrets.put(SECRET, {"username": USER, "password": PASSWORD})
    with pytest.raises(Trouble) as caught:
        store.fetch(SECRET, "us-east-1", PREVIOUS)
    assert caught.value.code == "secret-missing"
    second = secrets.rotate(SECRET, {"username": USER, "password": "newer"})
    assert store.fetch(SECRET, "us-east-1").version_id == second
    assert store.fetch(SECRET, "us-east-1", PREVIOUS).version_id == first


@pytest.mark.parametrize("value", [{"username": USER, "password": "wrong"}, "no JSON", b"\0binary"])
def test_a_fresh_relay_logs_in_with_the_version_before(
    store: SecretStore,
    secrets: SecretsManager,
    provider: Provider,
    ca_file: Path,
    value: dict[str, str] | str | bytes,
) -> None:
    first = secrets.put(SECRET, {"username": USER, "password": PASSWORD})
    if isinstance(value, bytes):
        secrets.client.put_secret_value(SecretId=SECRET, SecretBinary=value)
    else:
        secrets.rotate(SECRET, value)
    shape = Shape("smtp", ("username", "password"), "{username}", "{password}")
    upstream = Upstream("primary", "localhost", provider.port, "starttls", (shape,), ("plain",), SECRET, None)
    now = [0.0]
    keeper = Keeper(
        upstream,
        fetch=lambda upstream, stage=CURRENT: store.fetch(str(upstream.secret), "us-east-1", stage),
        prove=Prover(ca_file=ca_file, hello="relay.example.com", timeout_seconds=5).prove,
        poll_seconds=60,
        monotonic=lambda: now[0],
    )
    assert keeper.check()
    assert keeper.is_proven
    assert keeper.current is not None
    assert (keeper.current.version_id, keeper.current.credential.password) == (first, PASSWORD)
    assert keeper.refused_version not in (None, first)
    third = secrets.rotate(SECRET, {"username": USER, "password": "third password"})
    provider.set_password(USER, "third password")
    now[0] += 61
    assert keeper.check()
    assert keeper.current.version_id == third
    assert keeper.refused_version is None
