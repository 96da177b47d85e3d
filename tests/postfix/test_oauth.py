"""XOAUTH2 on a real Postfix: the compiled mechanism logs in with the token that the agent maintains."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from relay_agent.credential import Credential
from relay_agent.keeper import Keeper
from relay_agent.maps import write_sasl
from relay_agent.oauth import AccessToken, TokenRequest
from relay_agent.secret import CURRENT, SecretVersion
from relay_agent.settings import load

from builder.conformance.client import Mail, send_all
from builder.conformance.scene import Upstream
from builder.conformance.setups import OAUTH, Bed, running
from builder.releases import Release
from builder.standin.behaviour import Behaviour, Fault
from tests.agent.relay_world import make_places
from tests.rendered import rendered

pytestmark = pytest.mark.postfix

SECRET = {"username": "user1", "client_id": "c", "client_secret": "cs", "refresh_token": "rt"}


@pytest.fixture(scope="module")
def started(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with running(OAUTH, release, tmp_path_factory.mktemp("oauth")) as started:
        yield started


@pytest.fixture
def bed(started: Bed) -> Bed:
    started.relay.empty_queue()
    for upstream in started.upstreams:
        upstream.provider.clear()
        upstream.provider.drop_sessions()
        upstream.provider.set_password(upstream.user, upstream.password)
        upstream.provider.forget_old_passwords(upstream.user)
        upstream.provider.forget()
    return started


@pytest.fixture
def gmail(bed: Bed) -> Upstream:
    return bed.upstreams[0]


def use(bed: Bed, token: str) -> None:
    """Put a token into the map, beside the password of the other provider."""
    gmail, ses = bed.upstreams
    bed.relay.set_credentials({gmail.host: f"{gmail.user}:{token}", ses.host: f"{ses.user}:{ses.password}"})


def send(bed: Bed, to: str) -> None:
    (sent,) = send_all(bed.relay.smtp_address, [Mail((to,))])
    assert sent.reply.startswith("250")


def wait_for(upstream: Upstream, to: str) -> None:
    def arrived() -> bool:
        return any(to in message.recipients for message in upstream.provider.messages)

    assert upstream.provider.wait_for(arrived, timeout_seconds=20)


@pytest.mark.parametrize("token", ["ya29.short", "eyJ0eXAiOiJKV1Qi-_." * 160], ids=["google", "microsoft"])
def test_postfix_logs_in_with_the_token(token: str, bed: Bed, gmail: Upstream) -> None:
    gmail.provider.set_password(gmail.user, token)
    use(bed, token)
    send(bed, "a@example.net")
    wait_for(gmail, "a@example.net")
    assert [(a.mechanism, a.encrypted, a.accepted) for a in gmail.provider.auths] == [("XOAUTH2", True, True)]
    assert token not in bed.relay.log()


def test_a_token_that_is_refused_makes_mail_wait(bed: Bed, gmail: Upstream) -> None:
    ses = bed.upstreams[1]
    ses.provider.behave(Behaviour(Fault.REFUSE))
    use(bed, "ended")
    send(bed, "late@example.net")
    (queued,) = bed.relay.wait_until_settled()
    assert queued.recipients == ("late@example.net",)
    # The mechanism answers the server's explanation, so that its 535 is heard: the agent looks for that word.
    assert "SASL authentication failed; server smtp.gmail.com[127.0.0.1] said: 535" in bed.relay.log()
    use(bed, gmail.password)
    bed.relay.flush()
    wait_for(gmail, "late@example.net")


def test_a_fallback_gets_its_password_and_never_the_token(bed: Bed, gmail: Upstream) -> None:
    ses = bed.upstreams[1]
    gmail.provider.behave(Behaviour(Fault.REFUSE))
    use(bed, gmail.password)
    send(bed, "b@example.net")
    wait_for(ses, "b@example.net")
    assert {attempt.mechanism for attempt in ses.provider.auths} <= {"PLAIN", "LOGIN"}
    assert all(attempt.password_is == "current" for attempt in ses.provider.auths)


def test_the_agent_renews_the_token_and_mail_goes_on(bed: Bed, gmail: Upstream, tmp_path: Any) -> None:
    places = make_places(tmp_path / "root")
    places.agent_json.write_text(rendered("gmail", auth="xoauth2")["root/etc/relay/agent.json"])
    tokens, now = iter(["token-1", "token-2"]), [0.0]

    def exchange(request: TokenRequest) -> AccessToken:
        assert request.form["refresh_token"] == "rt"
        return AccessToken(next(tokens), 3600)

    keeper = Keeper(
        load(places).upstreams[0],
        fetch=lambda _upstream, _stage=CURRENT: SecretVersion(json.dumps(SECRET), "v1", 1.0),
        prove=lambda _upstream, _credential: None,
        poll_seconds=60,
        exchange=exchange,
        monotonic=lambda: now[0],
    )

    def follow() -> Credential:
        """Do what the agent does after a round that changed something."""
        assert keeper.check()
        assert keeper.current is not None
        write_sasl(places.sasl_map, {gmail.host: keeper.current.credential})
        bed.relay.write_file("/run/relay/sasl", places.sasl_map.read_text(), mode=0o600)
        bed.relay.reload()
        return keeper.current.credential

    gmail.provider.set_password(gmail.user, follow().password)
    send(bed, "first@example.net")
    wait_for(gmail, "first@example.net")
    now[0] = 3000.0
    gmail.provider.set_password(gmail.user, follow().password)
    gmail.provider.drop_sessions()
    send(bed, "second@example.net")
    wait_for(gmail, "second@example.net")
    assert [attempt.password_is for attempt in gmail.provider.auths] == ["current", "current"]
