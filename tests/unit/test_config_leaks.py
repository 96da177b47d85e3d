"""A secret put into relay.yaml is refused by kind and never repeated, whatever goes wrong beside it."""

from __future__ import annotations

import json
import traceback
from pathlib import Path

import pytest
import trustme
import yaml

from builder.config import boot_config, load_boot_config, load_config
from builder.config.boot import BootUpstream
from builder.config.leaks import kind_of_secret
from builder.errors import ConfigError

# Made for these tests, or published examples. Joined at run time so that secret scanners leave them alone.
SECRETS = {
    "an AWS access key ID": "AKIA" + "IOSFODNN7EXAMPLE",
    "an AWS secret access key": "wJalrXUtnFEMI/K7MDENG/" + "bPxRfiCYEXAMPLEKEY",
    "an SMTP password of SES": "BLBM/9hSUELfq8Gw+rU1" + "YcBjkOxGbhT2XG763xVLGWL9",
    "a SendGrid API key": "SG" + ".ngeVfQFYQlKU0ufo8x5d1A.TwL2iGABf9DHoTf09kqeF8tAmbihYzrnopKc-1s5cr4",
    "a Brevo key": "xsmtpsib" + "-0a1b2c3d4e5f60718293a4b5c6d7e8f9-Q1w2E3r4T5y6",
    "a Mailgun key": "key" + "-3ax6xnjp29jd6fds4gc373sgvjxteol0",
    "a Resend API key": "re" + "_c1tpEyD8_NKFusih9vKVQknRAQfmFcWCv",
    "a Google app password": "qwrt zxcv" + " abcd plkm",
    "a Google OAuth credential": "GOCSPX" + "-aB3dE5fG7hI9jK1lM3nO5pQ7",
    "a Microsoft client secret": "ApZ8Q~2ml" + "BG7xYwVuTsRqPoNmLkJiHgFeDcBa9876",
    "a web token (JWT)": "eyJhbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiIxMjM0NTY3ODkwIn0.c2ln",
    "a token such as Postmark's": "d0c1b2a3-1111-4222" + "-8333-0123456789ab",
    "a key in hexadecimal": "0123456789abcdef" * 2 + "01234567",
    "an address with a password in it": "smtp://relay:" + "hunter2@smtp.example.com",
    "a private key in PEM": "-----BEGIN RSA " + "PRIVATE KEY-----\\nMIIEow\\n-----END RSA PRIVATE KEY-----",
    "a random string such as a key or password": "q7Zp2Xv9Lw4T" + "b8Rk1Ns6Yd3",
}
PLACES = [
    "secret: '{}'",
    "hostname: '{}'",
    "region: '{}'",
    "networks: ['10.0.0.0/8', '{}']",
    "upstream: '{}'",
    "upstream: {{host: '{}'}}",
    "main_cf: {{smtp_sasl_password_maps: 'static:{}'}}",
    "main_cf: {{smtpd_banner: '{}'}}",
    "unknown: [{{deep: '{}'}}]",
    "access: {{senders: {{rules: [{{pattern: '{}', kind: exact, action: reject}}]}}}}",
    "hygiene: {{set_headers: {{X-Tag: '{}'}}}}",
    "routes: [{{name: '{}'}}]",
    "dkim: {{keys: [{{domain: example.com, selector: s, secret: '{}'}}]}}",
    "'{}': value",
    "upstream: {{'{}': 5}}",
]
SAFE = [
    "relay/production/ses/smtp-credentials",
    "Production/Relay/Credentials/SesSmtpUser",
    "arn:aws:secretsmanager:us-east-1:123456789012:secret:relay/ses-AbCdEf",
    "vpce-0123456789abcdef0-abcdefgh.email-smtp.us-east-1.vpce.amazonaws.com",
    "internal-distribution-relay-01.eu-central-1.compute.internal",
    "ip-10-123-45-67.eu-west-1.compute.internal",
    "postmaster+notifications2026@example-company.com",
    "^bounce-[0-9]+@([a-z0-9-]+\\.)*example\\.com$",
    "X-SES-CONFIGURATION-SET",
    "2001:db8:1234:5678::/64",
    "MyCompanyMarketingNewsletterWeekly",
    "Only applications of the shop may send from here",
    "only mail from shop",
]


def everything(error: BaseException) -> str:
    """Return all that could reach a person or a log: message, repr, arguments, the whole chain."""
    lines = [str(error), repr(error), repr(error.args), repr(vars(error))]
    lines += traceback.format_exception(error)
    for other in (error.__cause__, error.__context__):
        if other is not None:
            lines.append(everything(other))
    return "\n".join(lines)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", SECRETS)
def test_a_secret_anywhere_is_refused_and_never_shown(tmp_path: Path, place: str, kind: str) -> None:
    secret = SECRETS[kind]
    file = tmp_path / "relay.yaml"
    file.write_text("preset: ses\nmessage_bytes: 1\n" + place.format(secret) + "\n")
    with pytest.raises(ConfigError) as raised:
        load_config(file)
    shown = everything(raised.value)
    assert secret not in shown
    assert secret[5:-2] not in shown
    assert f"holds {kind}" in shown
    assert "(line 3)" in shown
    # The other mistake is still reported.
    assert "`message_bytes` is `1`" in shown


@pytest.mark.parametrize(
    "text",
    [
        "secret: {}: x\n",
        "secret: '{}\n",
        "secret: *{}\n",
        "secret: !{} x\n",
        'secret: "\\q{}"\n',
        "- {}\n",
        "{}\n",
        "secret: [{}\n",
        "\t{}\n",
    ],
)
def test_a_broken_file_does_not_show_what_it_holds(tmp_path: Path, text: str) -> None:
    canary = "CanaryCanaryCanary"
    file = tmp_path / "relay.yaml"
    file.write_text("preset: ses\nregion: us-east-1\n" + text.format(canary))
    with pytest.raises(ConfigError) as raised:
        load_config(file)
    assert canary not in everything(raised.value)


@pytest.mark.parametrize("text", ["# password: {}\n", "domain: '{}'\ndomain: example.com\n"])
def test_a_secret_in_a_comment_or_an_overwritten_key_is_refused(tmp_path: Path, text: str) -> None:
    secret = SECRETS["an AWS access key ID"]
    file = tmp_path / "relay.yaml"
    file.write_text("preset: ses\nregion: us-east-1\n" + text.format(secret))
    with pytest.raises(ConfigError, match="`line 3` holds an AWS access key ID") as raised:
        load_config(file)
    assert secret not in everything(raised.value)


def test_bytes_that_are_not_utf8_are_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "relay.yaml"
    file.write_bytes(b"password: Canary\xff\xfeCanary\n")
    with pytest.raises(ConfigError) as raised:
        load_config(file)
    assert "Canary" not in everything(raised.value)


@pytest.mark.parametrize(
    "key",
    ["password", "smtp_password", "api_key", "apikey", "secret_access_key", "refresh-token", "SASL_PASSWD"],
)
def test_a_key_with_the_name_of_a_credential_is_refused(tmp_path: Path, key: str) -> None:
    file = tmp_path / "relay.yaml"
    file.write_text(f"preset: ses\nregion: us-east-1\n{key}: hunter2\n")
    with pytest.raises(ConfigError, match=f"`{key}` holds a credential, by its name") as raised:
        load_config(file)
    assert "hunter2" not in everything(raised.value)
    assert "builder secret put" in str(raised.value.hint)


def test_what_stands_where_a_secret_name_belongs_is_not_repeated(tmp_path: Path) -> None:
    file = tmp_path / "relay.yaml"
    file.write_text("preset: ses\nregion: us-east-1\nsecret: hunter two!\n")
    with pytest.raises(
        ConfigError, match="`secret` is a value that is not shown, expected the name of a secret"
    ) as raised:
        load_config(file)
    assert "hunter" not in everything(raised.value)


def test_values_of_refused_main_cf_parameters_are_not_repeated(tmp_path: Path) -> None:
    file = tmp_path / "relay.yaml"
    file.write_text(
        "preset: ses\nregion: us-east-1\nmain_cf: {smtp_sasl_password_maps: 'static:me:hunter2'}\n"
    )
    with pytest.raises(ConfigError, match="Secrets Manager") as raised:
        load_config(file)
    assert "hunter2" not in everything(raised.value)


def test_a_secret_in_a_flag_is_refused_too() -> None:
    secret = SECRETS["an AWS access key ID"]
    loads = (
        lambda: load_config(None, {"preset": "ses", "secret": secret}),
        lambda: boot_config({"secret": secret}),
    )
    for load in loads:
        with pytest.raises(ConfigError, match="holds an AWS access key ID") as raised:
            load()
        assert secret not in everything(raised.value)


@pytest.mark.parametrize("container", [tuple, list])
def test_a_secret_in_a_repeated_flag_is_not_shown(container: type[tuple[str, ...]] | type[list[str]]) -> None:
    secret = SECRETS["an AWS access key ID"]
    with pytest.raises(ConfigError) as raised:
        load_config(None, {"preset": "ses", "networks": container(["10.0.0.1/8", secret])})
    assert secret not in everything(raised.value)
    assert len(raised.value.problems) == 3


@pytest.mark.parametrize("text", SAFE)
def test_names_and_words_are_not_taken_for_secrets(text: str) -> None:
    assert kind_of_secret(text) is None


@pytest.mark.parametrize("style", [None, '"', "|"])
def test_a_certificate_is_no_secret_but_what_stands_beside_it_is(style: str | None, tmp_path: Path) -> None:
    secret = SECRETS["a SendGrid API key"]
    pem = trustme.CA().cert_pem.bytes().decode()
    boot = tmp_path / "boot.yaml"
    boot.write_text(yaml.safe_dump({"upstream": {"ca_pem": pem}}, default_style=style))
    assert load_boot_config(boot).upstream == BootUpstream(ca_pem=pem)

    boot.write_text(yaml.safe_dump({"upstream": {"ca_pem": f"{pem}{secret}"}}, default_style=style))
    with pytest.raises(ConfigError, match="credentials do not belong here") as caught:
        load_boot_config(boot)
    assert secret not in str(caught.value)

    boot.write_text(f"upstream:\n  ca_pem: {json.dumps(pem)}\n# {secret}\n")
    with pytest.raises(ConfigError, match="line 3"):
        load_boot_config(boot)
