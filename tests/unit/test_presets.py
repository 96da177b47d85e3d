"""Every preset, through the same tests; and the mistakes that the schema refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from builder import assets
from builder.errors import BuilderError, ConfigError
from builder.preset_regex import expand
from builder.preset_view import describe, presets_table, source_rows
from builder.presets import Preset, load_preset, preset_names, read_preset

NAMES = preset_names()
HOST = re.compile(r"([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)+[a-z]{2,}")


@pytest.fixture(params=NAMES)
def preset(request: pytest.FixtureRequest) -> Preset:
    return load_preset(str(request.param))


def filtered(preset: Preset, line: str) -> str:
    """Return a reply after the whole table: the first pattern that matches rewrites it."""
    for reply in preset.replies:
        if reply.rewrite and re.search(reply.pattern, line, re.IGNORECASE):
            return expand(reply.pattern, reply.rewrite, line)
    return line


def test_the_presets_of_the_product_are_all_there() -> None:
    assert set(NAMES) == {
        *("ses", "sendgrid", "mailgun", "gmail", "gmail-workspace", "custom"),
        *("microsoft365", "postmark", "brevo", "mailjet", "sparkpost", "resend", "smtp2go"),
    }


def test_every_region_has_a_host_name(preset: Preset) -> None:
    for region in preset.hosts.value:
        assert HOST.fullmatch(preset.host(region)), region


def test_default_port_is_587_with_starttls(preset: Preset) -> None:
    # EC2 throttles 25, and 587 is the one that every provider has.
    assert preset.default_port == 587
    assert preset.tls_mode(587) == "starttls"


def test_implicit_tls_ports_are_the_known_ones(preset: Preset) -> None:
    implicit = {port.port for port in preset.ports if port.tls == "implicit"}
    assert implicit <= {465, 2465, 8465, 443}


def test_secret_templates_fill_from_their_fields(preset: Preset) -> None:
    for shape in preset.secret_shapes:
        secret = {name: f"<{name}>" for name in shape.fields}
        assert shape.password.format_map(secret).startswith("<")
        assert shape.username.format_map(secret)
        assert all(words for words in shape.fields.values())


def test_token_address_is_https(preset: Preset) -> None:
    for shape in preset.secret_shapes:
        if shape.mechanism == "xoauth2":
            assert shape.token_url is not None
            assert shape.token_url.startswith("https://")
            assert shape.scope


def test_every_rewrite_of_the_whole_table_gives_a_4xx_of_the_same_shape(preset: Preset) -> None:
    for reply in preset.replies:
        after = filtered(preset, reply.example)
        if reply.rewrite is None:
            assert after == reply.example
        else:
            assert re.match(r"4[0-9]{2} (4\.[0-9]+\.[0-9]+|(?![0-9]\.))", after), after


@pytest.mark.parametrize("line", ["530 Authentication required", "530-5.7.0 Authentication required"])
def test_mail_without_a_login_waits_at_every_provider(preset: Preset, line: str) -> None:
    assert filtered(preset, line).startswith(f"430{line[3]}")


@pytest.mark.parametrize("line", ["550 5.1.1 no such user", "554 Message rejected: not verified", "250 Ok"])
def test_other_replies_stay_as_they_are(preset: Preset, line: str) -> None:
    assert filtered(preset, line) == line


def test_gmail_quota_waits_and_keeps_its_text() -> None:
    after = filtered(load_preset("gmail"), "550 5.4.5 Daily user sending limit exceeded")
    assert after == "450 4.4.5 Daily user sending limit exceeded"


def test_workspace_relay_limit_waits_also_when_the_reply_has_several_lines() -> None:
    lines = [
        "550-5.7.1 Daily SMTP relay limit exceeded for customer. For more information",
        "550-5.7.1 contact your administrator or visit",
        "550 5.7.1 https://support.google.com/a/answer/6140680 - gsmtp",
    ]
    # Postfix goes by the code of the last line.
    assert filtered(load_preset("gmail-workspace"), lines[-1]).startswith("450 4.7.1 ")


@pytest.mark.parametrize(
    ("name", "concurrency", "messages"),
    [("microsoft365", 3, 100), ("postmark", 10, 5000), ("sendgrid", 10000, 4999), ("sparkpost", 10, 100)],
)
def test_delivery_stays_within_what_the_provider_bears(name: str, concurrency: int, messages: int) -> None:
    delivery = load_preset(name).delivery
    assert delivery.concurrency <= concurrency
    assert delivery.messages_per_connection <= messages


def test_ses_sessions_end_well_before_they_are_cut() -> None:
    ses = load_preset("ses")
    cap = ses.limits.messages_per_connection
    assert cap is not None
    assert cap.unofficial
    assert 100 <= ses.delivery.messages_per_connection < cap.value


def test_every_figure_of_a_limit_shows_where_it_was_read(preset: Preset) -> None:
    keys = {row["key"] for row in source_rows(preset)}
    for name, limit in preset.limits:
        assert (f"limits.{name}" in keys) == (limit is not None)


def test_every_value_has_a_page_and_a_date_or_is_called_our_own_choice(preset: Preset) -> None:
    rows = {row["key"]: row for row in source_rows(preset)}
    mechanisms = [f"mechanisms[{number}]" for number in range(len(preset.mechanisms))]
    chosen = ["concurrency", "initial_concurrency", "messages_per_connection"]
    assert {*mechanisms, *(f"delivery.{name}" for name in chosen)} <= set(rows)
    for row in rows.values():
        assert row["value"]
        assert re.fullmatch(r"20[0-9]{2}-[0-9]{2}-[0-9]{2}", row["date"])
        assert row["url"].startswith("https://") or row["remark"].startswith("own choice, ")
    assert [rows[key]["value"] for key in mechanisms] == list(preset.mechanism_names)
    for name in chosen:
        assert rows[f"delivery.{name}"]["value"] == str(getattr(preset.delivery, name))
        assert rows[f"delivery.{name}"]["remark"].startswith("own choice: ")


def test_a_choice_rests_on_the_page_of_the_limit_that_it_stays_below(preset: Preset) -> None:
    basis = {str(name): found.source for name, found in preset.delivery.basis.items()}
    for name, limit in (
        ("concurrency", preset.limits.connections),
        ("messages_per_connection", preset.limits.messages_per_connection),
    ):
        assert limit is None or basis[name] == limit.source


def test_sources_are_not_newer_than_the_day_of_the_check(preset: Preset) -> None:
    assert all(source.date <= preset.checked for source in preset.sources.values())


def test_description_is_json_and_has_sources_only_when_asked(preset: Preset) -> None:
    assert "sources" not in describe(preset)
    described = json.loads(json.dumps(describe(preset, sources=True)))
    assert described["sources"]
    assert described["delivery"]["reason"]


def test_table_has_a_row_for_every_preset_and_custom_last() -> None:
    table = presets_table()
    assert {row["preset"] for row in table} == set(NAMES)
    assert table[-1]["preset"] == "custom"
    assert next(row for row in table if row["preset"] == "ses")["message"] == "40 MB"


def test_unknown_preset_names_the_nearest_and_the_known_ones() -> None:
    with pytest.raises(BuilderError) as raised:
        load_preset("sengrid")
    assert raised.value.hint is not None
    assert raised.value.hint.startswith("Did you mean `sendgrid`?")
    assert "mailgun" in raised.value.hint


def test_region_without_ses_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="`region` is `eu-west-9`") as raised:
        load_preset("ses").host("eu-west-9")
    assert "eu-west-" in str(raised.value.hint)


@pytest.mark.parametrize(
    ("host", "accepted"),
    [
        ("vpce-0123456789abcdef0-abcdefgh.email-smtp.us-east-1.vpce.amazonaws.com", True),
        ("vpce-0123456789abcdef0-abcdefgh-us-east-1a.email-smtp.us-east-1.vpce.amazonaws.com", True),
        ("email-smtp-fips.us-west-2.amazonaws.com", True),
        ("email-smtp.eu-west-1.amazonaws.com", True),
        ("smtp.example.com", False),
        ("email-smtp.us-east-1.amazonaws.com.example.com", False),
        ("vpce-1-a.email-smtp.us-east-1.vpce.amazonaws.com.example.com", False),
    ],
)
def test_ses_accepts_only_names_of_its_own_service(host: str, accepted: bool) -> None:
    assert load_preset("ses").accepts_host(host) is accepted


def edited(folder: Path, before: str, after: str) -> Path:
    text = (assets.folder("provider_presets") / "ses.yaml").read_text(encoding="utf-8")
    assert before in text
    file = folder / "ses.yaml"
    file.write_text(text.replace(before, after), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("default_port: 587", "default_port: 588", "not among `ports`"),
        ("source: quotas", "source: qutas", "`qutas` is not in `sources`"),
        ("rewrite: '430$1'", "rewrite: '530$1'", "expected a 4xx reply"),
        ("rewrite: '430$1'", "rewrite: '430$3'", r"uses \$3"),
        ("'^535[ -]'", r"'^535\d'", "regexp:"),
        ("'^535[ -]'", "'^536[ -]'", "does not match its example"),
        ('password: "{password}"', 'password: "{passwrd}"', "not one of the fields"),
        ("concurrency: 20", "concurrencyy: 20", "concurrencyy"),
        ("messages_per_connection: 100", "messages_per_connection: 1000", "above `limits"),
        ("name: ses\n", "name: aws\n", "expected `ses` as the file"),
        ("title: Amazon SES", "title: [", "not YAML"),
        (
            "{name: plain, source: rfc4954-plain}\n  - {name: login,",
            "{name: xoauth2,",
            "needs `password`, which `mechanisms` does not have",
        ),
        ("{name: plain, source: rfc4954-plain}", "{name: plain}", "neither `source` nor `note`"),
        ("{name: plain, source: rfc4954-plain}", "{name: plain, source: rfc}", "`rfc` is not in `sources`"),
        (
            "    concurrency:\n      source: errors\n",
            "    queue_lifetime_hours:\n      source: errors\n",
            "basis.conc",
        ),
    ],
)
def test_a_mistake_in_a_preset_file_is_named(tmp_path: Path, before: str, after: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_preset(edited(tmp_path, before, after))


def test_a_preset_without_the_530_rewrite_is_refused(tmp_path: Path) -> None:
    file = edited(tmp_path, "rewrite: '430", "note: '430")
    text = re.sub(r"    note: '430.*\n", "", file.read_text(encoding="utf-8"))
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="no rewrite of 530"):
        read_preset(file)
