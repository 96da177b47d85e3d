"""Routes, access rules, headers and reports, as Postfix will read them."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from builder.config.model import RelayConfig
from builder.render.routing import warm_up_map
from tests.rendered import config_of, parameters, rendered

_EU = {"preset": "ses", "region": "eu-west-1"}


def _main_cf(release: str = "debian-12", **more: Any) -> dict[str, str]:
    return parameters(rendered("ses", release, **more)["root/etc/postfix/main.cf"])


def test_a_fallback_is_a_second_relayhost() -> None:
    values = _main_cf(fallback=_EU)
    hosts = "[email-smtp.us-east-1.amazonaws.com]:587, [email-smtp.eu-west-1.amazonaws.com]:587"
    assert values["relayhost"] == hosts
    assert "smtp_fallback_relay" not in values


def test_before_postfix_3_5_the_fallback_has_a_parameter_of_its_own() -> None:
    values = _main_cf("ubuntu-20.04", fallback=_EU)
    assert values["relayhost"] == "[email-smtp.us-east-1.amazonaws.com]:587"
    assert values["smtp_fallback_relay"] == "[email-smtp.eu-west-1.amazonaws.com]:587"


_TRANSPORTS = ("to-news", "to-letters", "to-ours")


def test_each_upstream_is_known_to_the_agent_once() -> None:
    routes = [{"name": "news", "preset": "sendgrid", "sender_domains": ["news.example"]}]
    files = rendered("ses", fallback=_EU, routes=routes)
    upstreams = json.loads(files["root/etc/relay/agent.json"])["upstreams"]
    assert [upstream["name"] for upstream in upstreams] == ["primary", "fallback", "news"]
    assert upstreams[2]["secret"] == "relay/sendgrid"


def test_a_route_has_a_transport_of_its_own() -> None:
    routes = [
        {"name": "news", "preset": "sendgrid", "sender_domains": ["news.example"], "upstream": {"port": 465}},
        {"name": "partner", "preset": "mailgun", "region": "us", "recipient_domains": ["partner.example"]},
    ]
    files = rendered("ses", routes=routes)
    edits = files["root/usr/lib/relay/master.cf.edits"]
    assert "-Me to-news/unix=to-news unix - - n - - smtp -o smtp_tls_wrappermode=yes" in edits
    table = files["root/etc/postfix/transport"]
    assert "partner.example  to-partner:[smtp.mailgun.org]:587" in table
    assert ".partner.example  to-partner:[smtp.mailgun.org]:587" in table
    senders = files["root/etc/postfix/sender_routes.regexp"].splitlines()
    assert r"/@([^@]+\.)?news\.example$/  to-news:[smtp.sendgrid.net]:465" in senders


def test_of_two_routes_by_sender_the_one_for_the_deeper_domain_comes_first() -> None:
    names = {"all": "example.com", "deepest": "a.b.example.com", "below": "b.example.com"}
    routes = [{"name": n, "preset": "sendgrid", "sender_domains": [domain]} for n, domain in names.items()]
    table = rendered("ses", routes=routes)["root/etc/postfix/sender_routes.regexp"]
    assert re.findall(r"to-(\w+):", table) == ["deepest", "below", "all"]


def test_a_second_account_at_one_host_has_an_entry_of_its_own_in_the_password_map() -> None:
    news = {"preset": "ses", "region": "us-east-1", "secret": "relay/news"}
    routes = [
        {**news, "name": "news", "sender_domains": ["news.example"]},
        {**news, "name": "letters", "sender_domains": ["letters.example"]},
        {"preset": "ses", "region": "us-east-1", "name": "ours", "recipient_domains": ["ours.example"]},
    ]
    files = rendered("ses", routes=routes)
    upstreams = json.loads(files["root/etc/relay/agent.json"])["upstreams"]
    assert [(each["name"], each.get("account"), each["secret"]) for each in upstreams] == [
        ("primary", None, "relay/ses"),
        ("news", "to-news", "relay/news"),
    ]
    edits = files["root/usr/lib/relay/master.cf.edits"].splitlines()
    own_map = (
        "-o smtp_sasl_password_maps=pipemap:{inline:{email-smtp.us-east-1.amazonaws.com=to-news},"
        "texthash:/run/relay/sasl},fail:no-credentials"
    )
    uses = {name: [own_map in line for line in edits if f"-Me {name}/" in line] for name in _TRANSPORTS}
    assert uses == {"to-news": [True], "to-letters": [True], "to-ours": [False]}


def test_only_what_leads_to_the_account_with_the_quota_waits_for_its_turn() -> None:
    routes = [
        {"name": "news", "preset": "sendgrid", "sender_domains": ["news.example"]},
        {"name": "same", "preset": "ses", "region": "us-east-1", "recipient_domains": ["same.example"]},
    ]
    override = "-o smtp_connection_cache_destinations=static:all"
    files = rendered(quota={"messages_per_second": 1}, routes=routes)
    lines = files["root/usr/lib/relay/master.cf.edits"].splitlines()
    own = {name: line for line in lines for name in ("to-news", "to-same") if f"-Me {name}/" in line}
    assert override in own["to-news"]
    assert override not in own["to-same"]
    assert override not in rendered(routes=routes)["root/usr/lib/relay/master.cf.edits"]


@pytest.mark.parametrize(("percent", "entries"), [(25, 4), (50, 2), (1, 100), (10, 10), (99, 100)])
def test_a_warm_up_is_a_part_of_the_entries(percent: int, entries: int) -> None:
    config = config_of("ses", warm_up={**_EU, "percent": percent})
    listed = warm_up_map(config, percent).removeprefix("randmap:{").removesuffix("}").split(",")
    assert len(listed) == entries
    assert sum(entry.startswith("warm-up:") for entry in listed) * 100 == percent * entries


def test_a_warm_up_plan_has_a_value_for_each_day() -> None:
    steps = [{"date": "2026-12-01", "percent": 10}, {"date": "2026-12-08", "percent": 100}]
    plan = json.loads(rendered("ses", warm_up={**_EU, "steps": steps})["root/etc/relay/warm-up.json"])
    assert [step["date"] for step in plan["steps"]] == ["2026-12-01", "2026-12-08"]
    assert "smtp:" not in plan["steps"][1]["value"].partition("randmap:")[2]
    assert "randmap" not in plan["before"]


def _rule(pattern: str, kind: str, action: str, text: str | None = None) -> dict[str, Any]:
    return {"pattern": pattern, "kind": kind, "action": action, **({"text": text} if text else {})}


def test_access_rules_are_asked() -> None:
    access = {"senders": {"rules": [_rule("evil.example", "domain", "reject", "not here")]}}
    files = rendered("ses", access=access)
    values = parameters(files["root/etc/postfix/main.cf"])
    assert (
        values["smtpd_recipient_restrictions"]
        == "check_sender_access regexp:/etc/postfix/sender_access.regexp, "
        "check_sender_access regexp:/etc/postfix/null_sender.regexp"
    )
    table = files["root/etc/postfix/sender_access.regexp"]
    assert r"/@([^@]+\.)?evil\.example$/  REJECT 5.7.1 not here" in table


def test_a_list_of_who_may_ends_with_a_refusal_and_lets_reports_pass() -> None:
    access = {"senders": {"otherwise": "reject", "rules": [_rule("a@b.example", "exact", "allow")]}}
    rows = rendered("ses", access=access)["root/etc/postfix/sender_access.regexp"].splitlines()
    rows = [row for row in rows if not row.startswith("#")]
    assert rows[0] == r"/^a@b\.example$/  DUNNO"
    assert rows[1] == "/^<>$/  DUNNO"
    assert rows[2].startswith("/^/  REJECT")


def test_discarding_a_recipient_leaves_the_others() -> None:
    rules = [_rule("keep@drop.example", "exact", "allow"), _rule("drop.example", "domain", "discard")]
    files = rendered("ses", access={"recipients": {"rules": rules}})
    assert "DISCARD" not in files["root/etc/postfix/recipient_access.regexp"]
    table = files["root/etc/postfix/discarded_recipients.regexp"]
    assert re.search(r"if !/\^keep@drop.*\n/@.*  discard:discarded by an access rule\nendif", table)


def test_a_recipient_that_is_discarded_is_not_refused_by_what_comes_later() -> None:
    rules = [_rule("drop.example", "domain", "discard"), _rule("^a@", "regexp", "reject")]
    access = {"recipients": {"rules": [*rules, _rule("b.example", "domain", "allow")], "otherwise": "reject"}}
    rows = rendered("ses", access=access)["root/etc/postfix/recipient_access.regexp"].splitlines()
    assert rows.index(r"/@([^@]+\.)?drop\.example$/  DUNNO") < rows.index(
        "/^a@/  REJECT 5.7.1 this relay does not accept that address"
    )


def test_a_dollar_in_a_value_is_no_group_of_the_pattern() -> None:
    rules = [
        _rule("a.example", "domain", "reject", "you owe $5"),
        _rule("b.example", "domain", "hold", "$1"),
    ]
    dropped = _rule("c.example", "domain", "discard", "${2}")
    files = rendered(
        "ses",
        access={"senders": {"rules": rules}, "recipients": {"rules": [dropped]}},
        hygiene={"set_headers": {"X-$1": "$5 off"}, "sender_rewrite": {"address": "a$1b@x.example"}},
        dsn={"address": "c$2@x.example", "sender": "d$3@x.example"},
    )
    tables = {path: text for path, text in files.items() if path.endswith(".regexp")}
    # The filter of replies is the presets', whose rewrites do name groups.
    del tables["root/etc/postfix/reply_filter.regexp"]
    results = "\n".join(line.rpartition("/  ")[2] for text in tables.values() for line in text.splitlines())
    for written in ("5.7.1 you owe $$5", "HOLD $$1", "discard:$${2}", "X-$$1: $$5 off", "d$$3@x.example"):
        assert written in results
    assert results.count("a$$1b@x.example") == 3
    assert parameters(files["root/etc/postfix/main.cf"])["bounce_notice_recipient"] == "c$$2@x.example"


def test_the_narrowest_network_comes_first() -> None:
    domains = [
        {"networks": ["10.0.0.0/8"], "domains": ["a.example"]},
        {"networks": ["10.1.0.0/16"], "domains": ["b.example"]},
    ]
    table = rendered("ses", access={"sender_domains": domains})["root/etc/postfix/sender_networks.cidr"]
    assert table.index("10.1.0.0/16") < table.index("10.0.0.0/8")


def test_limits_hold_for_networks_too() -> None:
    values = _main_cf(clients={"messages_per_minute": 100})
    assert values["smtpd_client_event_limit_exceptions"] == ""
    assert values["smtpd_client_message_rate_limit"] == "100"
    assert values["smtpd_client_connection_count_limit"] == "0"


def test_added_headers_are_removed_from_what_clients_send() -> None:
    files = rendered("ses", hygiene={"configuration_set": "marketing"})
    checks = files["root/etc/postfix/header_checks.regexp"]
    marker = re.search(r"/\^(X-Relay-[0-9a-f]{16}):/  REPLACE X-SES-CONFIGURATION-SET: marketing", checks)
    assert marker is not None
    assert "/^X-SES-CONFIGURATION-SET[[:space:]]*:/  IGNORE" in checks
    assert f"PREPEND {marker[1]}: yes" in files["root/etc/postfix/added_header_1.regexp"]


def test_attached_messages_are_left_alone() -> None:
    values = _main_cf(hygiene={"strip_client_headers": True})
    assert values["nested_header_checks"] == ""
    assert values["mime_header_checks"] == ""


def test_reports_stay_here_when_the_provider_takes_no_null_sender() -> None:
    files = rendered("ses")
    edits = files["root/usr/lib/relay/master.cf.edits"]
    for service in ("bounce", "defer", "trace"):
        assert f"-Pe {service}/unix/cleanup_service_name=cleanup-dsn" in edits
        assert f"-Pe {service}/unix/internal_mail_filter_classes=bounce" in edits
    assert "-Me cleanup-dsn/unix=cleanup-dsn unix n - n - 0 cleanup -o header_checks=" in edits
    assert "/^Subject:/  FILTER dsn-spool:" in files["root/etc/postfix/notices.regexp"]
    assert "root/usr/lib/relay/bin/keep-dsn" in files
    assert "30d" in files["root/usr/lib/tmpfiles.d/relay-dsn.conf"]


_KEEP_DSN = Path(__file__).parents[2] / "cloudinit/postfix/keep-dsn.sh"


def _keep(folder: Path, text: str, *, limit: str = "unlimited") -> int:
    """Keep a report under the same queue id, with files limited to so many blocks."""
    command = ["sh", "-c", f'ulimit -f {limit}; exec sh {_KEEP_DSN} "$0" 4D2E91A0F3', str(folder)]
    return subprocess.run(command, input=text, text=True, check=False).returncode


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    folder = tmp_path / "relay-dsn"
    folder.mkdir()
    return folder


@pytest.mark.allow_programs("sh")
def test_a_report_never_replaces_another_one_with_its_queue_id(reports: Path) -> None:
    """Short queue ids are a moment within a second and an inode, which come again within 30 days."""
    assert _keep(reports, "first") == _keep(reports, "second") == 0
    assert sorted(path.read_text() for path in reports.glob("4D2E91A0F3*.eml")) == ["first", "second"]
    assert len(list(reports.iterdir())) == 2


@pytest.mark.allow_programs("sh")
def test_a_report_that_cannot_be_written_leaves_nothing_and_is_tried_again(reports: Path) -> None:
    assert _keep(reports, "x" * 100_000, limit="1") == 75
    assert list(reports.iterdir()) == []
    assert _keep(reports / "missing", "x") == 75


def test_notices_to_an_address_are_not_kept_with_the_reports() -> None:
    notices = rendered("ses", dsn={"address": "ops@example.com"})["root/etc/postfix/notices.regexp"]
    rows = [line for line in notices.splitlines() if not line.startswith("#")]
    assert rows == ["/^Subject: Postmaster /  DUNNO", "/^Subject:/  FILTER dsn-spool:"]


def test_a_null_sender_of_a_client_is_refused_after_the_access_rules() -> None:
    rules = [_rule("<>", "exact", "discard")]
    files = rendered("ses", access={"senders": {"rules": rules}})
    asked = parameters(files["root/etc/postfix/main.cf"])["smtpd_recipient_restrictions"]
    assert asked == (
        "check_sender_access regexp:/etc/postfix/sender_access.regexp, "
        "check_sender_access regexp:/etc/postfix/null_sender.regexp"
    )
    assert "/^<>$/  550 5.7.1 this relay" in files["root/etc/postfix/null_sender.regexp"]


@pytest.mark.parametrize(
    ("more", "sender"),
    [
        ({}, "ops@example.com"),
        ({"sender": "mailer@example.com"}, "mailer@example.com"),
    ],
)
def test_a_null_sender_of_a_client_is_replaced_where_asked_for(more: dict[str, str], sender: str) -> None:
    files = rendered("ses", dsn={"address": "ops@example.com", "from_clients": "rewrite", **more})
    values = parameters(files["root/etc/postfix/main.cf"])
    assert "smtpd_recipient_restrictions" not in values
    assert values["smtpd_command_filter"] == "regexp:/etc/postfix/null_sender.regexp"
    assert f"<>(.*)$/  ${{1}}<{sender}>${{2}}" in files["root/etc/postfix/null_sender.regexp"]


def test_a_null_sender_of_a_client_may_go_to_the_provider() -> None:
    files = rendered("ses", dsn={"from_clients": "pass"})
    values = parameters(files["root/etc/postfix/main.cf"])
    assert "smtpd_recipient_restrictions" not in values
    assert "smtpd_command_filter" not in values
    assert "root/etc/postfix/null_sender.regexp" not in files
    # What the provider refuses cannot be returned: it is kept all the same.
    assert values["notify_classes"] == "2bounce"


def test_notices_go_to_the_address() -> None:
    values = _main_cf(dsn={"address": "ops@example.com"})
    assert values["notify_classes"] == "bounce, 2bounce, resource, software"
    assert values["bounce_notice_recipient"] == "ops@example.com"


def test_submission_is_not_open_before_the_agent_opens_it() -> None:
    files = rendered("ses", submission={"secret": "relay/users"})
    assert "submission/inet" not in files["root/usr/lib/relay/master.cf.edits"]
    described = json.loads(files["root/etc/relay/agent.json"])["submission"]
    assert described["master_cf"].startswith("submission inet n - n - - smtpd")
    assert "sasl2-bin" in files["packages.txt"].split()
    assert "set submission4" in files["root/etc/nftables.conf"]


def test_a_password_is_never_offered_before_tls() -> None:
    config = RelayConfig.model_validate(
        {"preset": "ses", "region": "us-east-1", "submission": {"secret": "x"}}
    )
    assert config.submission is not None
    assert _main_cf(submission={"secret": "x"})["smtpd_tls_auth_only"] == "yes"
