"""The stand-ins know every provider, secret and port that an image was baked for."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from builder.config import RelayConfig
from builder.verify.world import boot_user_data, let_in, make_stand_ins, sample_logins

FALLBACK = {"preset": "ses", "region": "eu-west-1"}
ROUTE = {"name": "news", "preset": "sendgrid", "sender_domains": ["news.example"], "upstream": {"port": 465}}


def _config(**changes: Any) -> RelayConfig:
    return RelayConfig.model_validate({"preset": "ses", "region": "us-east-1", **changes})


def test_each_provider_has_a_login_and_one_secret_in_common_gives_one_key() -> None:
    logins = sample_logins(_config(fallback=FALLBACK, routes=[ROUTE]))
    assert list(logins.providers) == ["primary", "fallback", "news"]
    assert set(logins.secrets) == {"relay/ses", "relay/sendgrid"}
    first, second = logins.providers["primary"], logins.providers["fallback"]
    assert first.secret == second.secret
    assert first.password != second.password, "the password of SES is derived for each region"
    assert logins.providers["news"].username == "apikey"


def test_one_user_with_a_password_for_each_region_is_let_in_and_the_first_is_current() -> None:
    config = _config(fallback=FALLBACK)
    logins = sample_logins(config)
    users = make_stand_ins(config, logins).provider._shared.users
    for name, expected in (("primary", ("current", True)), ("fallback", ("old", True))):
        login = logins.providers[name]
        assert users.check(login.username, login.password.encode()) == expected


def test_new_logins_shut_the_old_ones_out() -> None:
    config = _config(fallback=FALLBACK)
    old, new = sample_logins(config), sample_logins(config)
    stand_ins = make_stand_ins(config, old)
    let_in(stand_ins, new)
    users = stand_ins.provider._shared.users
    assert not any(users.check(each.username, each.password.encode())[1] for each in old.providers.values())
    assert all(users.check(each.username, each.password.encode())[1] for each in new.providers.values())


def test_names_and_ports_of_all_providers_lead_to_the_stand_in() -> None:
    config = _config(fallback=FALLBACK, routes=[ROUTE])
    with make_stand_ins(config, sample_logins(config)) as stand_ins:
        user_data = yaml.safe_load(boot_user_data(config, stand_ins))
        ports = {587: stand_ins.provider.port, 465: stand_ins.provider.tls_port}
    hosts = next(file["content"] for file in user_data["write_files"] if file["path"] == "/etc/hosts")
    assert hosts.split() == [
        word
        for name in ("email-smtp.us-east-1.amazonaws.com", "email-smtp.eu-west-1.amazonaws.com")
        for word in ("10.0.2.2", name)
    ] + ["10.0.2.2", "smtp.sendgrid.net"]
    (command,) = user_data["bootcmd"]
    assert command[0] == "nft"
    for port, real in ports.items():
        assert f"tcp dport {port} dnat to 10.0.2.2:{real}" in command[1]


def test_the_ports_in_the_image_are_not_overruled() -> None:
    config = _config()
    with make_stand_ins(config, sample_logins(config)) as stand_ins:
        user_data = yaml.safe_load(boot_user_data(config, stand_ins))
    boot = json.loads(next(f["content"] for f in user_data["write_files"] if f["path"].endswith("boot.json")))
    assert set(boot["upstream"]) == {"ca_pem"}
    assert boot["secret"] == "relay/ses"


def test_who_tries_the_image_may_reach_its_management_ports() -> None:
    config = _config(firewall={"management_networks": ["10.9.0.0/16"]})
    with make_stand_ins(config, sample_logins(config)) as stand_ins:
        commands = yaml.safe_load(boot_user_data(config, stand_ins))["bootcmd"]
    assert ["nft", "add element inet relay management4 { 10.0.2.2 }"] in commands


@pytest.mark.parametrize("certificate", ["secret", "self_signed"])
def test_the_submission_ports_users_are_in_a_secret_of_their_own(certificate: str) -> None:
    config = _config(submission={"secret": "relay/users", "certificate": certificate})
    logins = sample_logins(config)
    assert logins.secrets["relay/users"]["users"] == {"probe": logins.submission_password}
    assert "PRIVATE KEY" in logins.secrets["relay/users"]["private_key"]
    assert list(logins.secrets)[0] == "relay/ses"
    assert (logins.submission_password or "").encode() in dict(logins.traces).values()
    assert str(logins.submission_password) not in repr(logins)


def test_a_provider_with_oauth_has_a_token_service_that_knows_its_grants_only() -> None:
    config = _config(preset="microsoft365", region=None)
    logins = sample_logins(config)
    grant = logins.first.grant
    assert grant is not None
    assert grant.host == "login.microsoftonline.com"
    with make_stand_ins(config, logins) as stand_ins:
        assert stand_ins.tokens is not None
        form = {"grant_type": "refresh_token", "refresh_token": grant.proof}
        assert stand_ins.tokens.answer(form)[1]["access_token"] == logins.first.password
        assert stand_ins.tokens.answer({**form, "refresh_token": "x"}) == (400, {"error": "invalid_grant"})
        user_data = yaml.safe_load(boot_user_data(config, stand_ins))
        port = stand_ins.tokens.port
        let_in(stand_ins, sample_logins(config))
        assert stand_ins.tokens.answer(form)[0] == 400
    redirects, trust = (command[-1] for command in user_data["bootcmd"])
    assert f"tcp dport 443 dnat to 10.0.2.2:{port}" in redirects
    assert "BEGIN CERTIFICATE" in trust


def test_signing_keys_are_in_their_secrets_and_searched_for() -> None:
    key = {"domain": "ours.example", "selector": "s1", "secret": "relay/dkim"}
    logins = sample_logins(_config(dkim={"keys": [key]}))
    pem = logins.secrets["relay/dkim"]["private_key"]
    assert pem.startswith("-----BEGIN")
    trace = dict(logins.traces)["the private key of `relay/dkim`"].decode()
    assert trace in pem
    assert "---" not in trace
