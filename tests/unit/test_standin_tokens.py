"""The token service answers the agent over verified TLS, and refuses a grant that it does not know."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from relay_agent import oauth
from relay_agent.trouble import Trouble

from builder.standin.behaviour import Certificate
from builder.standin.certificates import Certificates
from builder.standin.tokens import TokenService


@pytest.fixture
def tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TokenService]:
    certificates = Certificates(["localhost"])
    trusted = tmp_path / "ca.pem"
    trusted.write_text(certificates.ca_pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    with TokenService(certificates.context(Certificate.GOOD)) as service:
        yield service


def _ask(tokens: TokenService, **form: str) -> oauth.AccessToken:
    return oauth.exchange(oauth.TokenRequest(f"https://localhost:{tokens.port}/tenant/token", form))


def test_a_known_refresh_token_gives_the_access_token(tokens: TokenService) -> None:
    tokens.grant("refresh me", "an access token")
    given = _ask(tokens, grant_type="refresh_token", refresh_token="refresh me", client_id="c")
    assert (given.token, given.seconds) == ("an access token", 3600)


def test_a_client_proves_itself_with_its_secret(tokens: TokenService) -> None:
    tokens.grant("the secret", "an access token")
    assert (
        _ask(tokens, grant_type="client_credentials", client_secret="the secret").token == "an access token"
    )


@pytest.mark.parametrize("grant", ["refresh_token", "client_credentials", "password"])
def test_what_it_does_not_know_is_refused_for_good(tokens: TokenService, grant: str) -> None:
    with pytest.raises(Trouble) as caught:
        _ask(tokens, grant_type=grant, refresh_token="x", client_secret="x")
    assert caught.value.code == "token-refused"
    assert tokens.statuses == (400,)


def test_a_revoked_grant_is_not_known_any_more(tokens: TokenService) -> None:
    tokens.grant("refresh me", "an access token")
    tokens.revoke_all()
    with pytest.raises(Trouble, match="invalid_grant"):
        _ask(tokens, grant_type="refresh_token", refresh_token="refresh me")
