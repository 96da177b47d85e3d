"""The sending rate: when a message may go, what this relay's share is, and what happens when nobody knows."""

from __future__ import annotations

import io
import json
import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from relay_agent import rate
from relay_agent.logs import Log
from relay_agent.pace import ADDRESS, Bucket
from relay_agent.places import Places
from relay_agent.postfix import Postfix
from relay_agent.rate import HEADROOM, Rate, Sessions, read_quota, sessions_for
from relay_agent.secret import Library
from relay_agent.trouble import Trouble

from tests.agent.clock import Clock
from tests.agent.relay_world import agent_json
from tests.fakes import FakeTools
from tests.rendered import parameters, rendered


def test_each_relay_gets_its_share_and_a_new_one_changes_it(clock: Clock) -> None:
    relays = [4]
    bucket = Bucket(clock)
    share = Rate("fleet", bucket, account=lambda: 40.0, relays=lambda: relays[0], monotonic=clock)
    assert share.check()
    assert bucket.rate() == pytest.approx(10 * HEADROOM)
    relays[0] = 5
    assert not share.check()  # not due yet
    clock.now += 37
    assert share.check()
    assert bucket.rate() == pytest.approx(8 * HEADROOM)


def test_a_share_by_node_asks_for_no_fleet(clock: Clock) -> None:
    bucket = Bucket(clock)
    share = Rate("node", bucket, account=lambda: 40.0, relays=unknown, monotonic=clock)
    share.check()
    assert bucket.rate() == pytest.approx(40 * HEADROOM)
    assert share.trouble is None


def test_what_cannot_be_found_out_keeps_its_last_value(clock: Clock) -> None:
    answers: list[Callable[[], int]] = [lambda: 2, unknown]
    bucket = Bucket(clock)
    share = Rate("fleet", bucket, account=lambda: 40.0, relays=lambda: answers[0](), monotonic=clock)
    share.check()
    del answers[0]
    clock.now += 37
    assert not share.check()
    assert bucket.rate() == pytest.approx(20 * HEADROOM)
    assert share.as_json()["reason"]["code"] == "quota-unknown"


def test_without_any_answer_nothing_is_slowed(clock: Clock) -> None:
    bucket = Bucket(clock)
    share = Rate("fleet", bucket, account=unknown, relays=lambda: 1, monotonic=clock)
    share.check()
    assert bucket.rate() is None
    assert share.trouble is not None


def test_a_number_of_relays_that_is_not_known_does_not_keep_the_rest_from_being_done(clock: Clock) -> None:
    fitted: list[float | None] = []
    bucket = Bucket(clock)
    share = Rate(
        "fleet",
        bucket,
        account=lambda: 40.0,
        relays=unknown,
        fit=lambda own: fitted.append(own),
        monotonic=clock,
    )
    share.check()
    assert fitted == [40 * HEADROOM]
    assert share.as_json()["reason"]["code"] == "quota-unknown"


def test_a_file_that_changes_is_a_reason_to_look_at_once(clock: Clock) -> None:
    relays, hint = [4], [0]
    bucket = Bucket(clock)
    share = Rate(
        "fleet",
        bucket,
        account=lambda: 40.0,
        relays=lambda: relays[0],
        hint=lambda: hint[0],
        monotonic=clock,
    )
    assert share.check()
    relays[0], hint[0] = 5, 1
    assert share.check()
    assert bucket.rate() == pytest.approx(8 * HEADROOM)
    assert not share.check()


def test_the_quota_is_read_and_may_be_missing(files: Places) -> None:
    files.agent_json.write_text(json.dumps(agent_json()))
    assert read_quota(files) is None
    quota = {"messages_per_second": 14, "source": "config", "share": "node", "sessions": 100}
    files.agent_json.write_text(json.dumps(agent_json(quota=quota)))
    found = read_quota(files)
    assert found is not None
    assert (found.messages_per_second, found.share, found.sessions) == (14.0, "node", {"smtp": 100})
    assert found.host == "localhost"


@pytest.mark.parametrize(
    "quota",
    [
        7,
        {"messages_per_second": 0},
        {"messages_per_second": "14"},
        {"source": "config"},
        {"messages_per_second": 1, "source": "guess"},
        {"messages_per_second": 1, "share": "half"},
        {"messages_per_second": 1, "sessions": 0},
        {"messages_per_second": 1, "transports": ["to-b"]},
        {"messages_per_second": 1, "transports": {"to-b": 0}},
        {"messages_per_second": 1, "transports": {"-M": 1}},
    ],
)
def test_a_quota_that_cannot_be_is_refused(files: Places, quota: Any) -> None:
    files.agent_json.write_text(json.dumps(agent_json(quota=quota)))
    with pytest.raises(Trouble, match="Sending rate"):
        read_quota(files)


@pytest.mark.parametrize(
    ("rate", "sessions"),
    [
        (500, {"smtp": 100}),
        (1, {"smtp": 60}),
        (0.1, {"smtp": 6}),
        (0.001, {"smtp": 1}),
        (500, {"smtp": 100, "to-b": 50}),
        (0.1, {"smtp": 3, "to-b": 3}),
        (1, {"smtp": 30, "to-b": 30}),
        (2, {"smtp": 70, "to-b": 50}),
        (0.001, {"smtp": 1, "to-b": 1}),
    ],
)
def test_no_message_waits_for_its_turn_longer_than_postfix_does(
    rate: float, sessions: dict[str, int]
) -> None:
    baked = {"smtp": 100, "to-b": 50}
    assert sessions_for(rate, {name: baked[name] for name in sessions}) == sessions


# Keeps what `-e` sets, as main.cf does.
_POSTCONF = """\
touch {kept}
case "$1" in
-e)
  shift
  for pair; do
    name="${{pair%%=*}}"
    sed -i "/^$name /d" {kept}
    echo "$name = ${{pair#*=}}" >>{kept}
  done
  ;;
*) for name; do grep "^$name " {kept} || echo "$name = 100"; done ;;
esac
"""


def test_the_concurrency_is_changed_only_when_it_must(
    files: Places, fake_tool: FakeTools, tmp_path: Path
) -> None:
    postconf = fake_tool("postconf", _POSTCONF.format(kept=tmp_path / "main.cf"))
    fake_tool("postfix", "exit 0")
    sessions = Sessions(Postfix(files), {"smtp": 100})
    assert not sessions.fit(None)
    assert not sessions.fit(50)
    assert sessions.fit(0.5)
    assert not sessions.fit(0.5)
    assert [call for call in postconf.calls if call[0] == "-e"] == [
        ["-e", "smtp_destination_concurrency_limit=30", "smtp_initial_destination_concurrency=20"]
    ]


def test_all_that_wait_for_the_rate_of_one_account_wait_a_minute_at_most(
    files: Places, fake_tool: FakeTools, tmp_path: Path
) -> None:
    main_cf = tmp_path / "main.cf"
    postconf = fake_tool("postconf", _POSTCONF.format(kept=main_cf))
    fake_tool("postfix", "exit 0")
    sessions = Sessions(Postfix(files), {"smtp": 100, "to-b": 100})
    assert not sessions.fit(None)
    assert sessions.fit(0.1)
    assert set(main_cf.read_text().splitlines()) == {
        "smtp_destination_concurrency_limit = 3",
        "smtp_initial_destination_concurrency = 3",
        "to-b_destination_concurrency_limit = 3",
        "to-b_initial_destination_concurrency = 3",
    }
    assert sum(call[0] == "-e" for call in postconf.calls) == 1
    assert sessions.fit(None)
    assert "to-b_destination_concurrency_limit = 100" in main_cf.read_text()


@pytest.fixture(autouse=True)
def _end_the_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stop what `rate.start` starts: in a later test it would run this machine's own `postconf`."""
    started: list[rate.RateThread] = []

    class Remembered(rate.RateThread):
        def start(self) -> None:
            started.append(self)
            super().start()

    monkeypatch.setattr(rate, "RateThread", Remembered)
    yield
    for thread in started:
        thread.stop()


def run_start(files: Places, quota: Any) -> tuple[Any, queue.Queue[dict[str, Any]], io.StringIO]:
    """Start as the agent does; return what it gave, what it published and what it logged."""
    values = agent_json() if quota is None else agent_json(quota=quota, fleet_size=2)
    files.agent_json.write_text(json.dumps(values))
    published: queue.Queue[dict[str, Any]] = queue.Queue()
    said = io.StringIO()
    observe = rate.start(files, Library(), Postfix(files), Log(said), published.put, port=0)
    return observe, published, said


def test_an_image_without_a_quota_has_no_gate(files: Places) -> None:
    observe, published, said = run_start(files, None)
    assert observe is None
    assert published.empty()
    assert said.getvalue() == ""


def test_a_quota_that_cannot_be_read_is_said_and_stops_nothing(files: Places) -> None:
    observe, published, said = run_start(files, {"messages_per_second": "many"})
    assert observe is None
    shown = published.get_nowait()
    assert (shown["paced"], shown["gate_reason"]["code"]) == (False, "config-invalid")
    assert "the sending rate is not limited" in said.getvalue()


def test_the_share_is_in_force_soon_after_the_start(files: Places, fake_tool: FakeTools) -> None:
    fake_tool("postconf", "echo 100")
    quota = {"messages_per_second": 40, "source": "config", "share": "fleet", "sessions": 100}
    observe, published, _said = run_start(files, quota)
    assert observe is not None
    assert published.get(timeout=10)["own_per_second"] == pytest.approx(20 * HEADROOM)


def test_a_relay_that_starts_again_keeps_the_rate_that_amazon_ses_said_before(
    files: Places, fake_tool: FakeTools
) -> None:
    fake_tool("postconf", "echo 100")
    files.account_rate.write_text(json.dumps({"host": "localhost", "messages_per_second": 30}))
    files.boot_json.write_text(json.dumps({"schema": 1, "imds_endpoint": "http://127.0.0.1:9"}))
    _observe, published, _said = run_start(files, {"source": "ses_get_send_quota", "sessions": 100})
    shown = published.get(timeout=30)
    assert shown["in_force_per_second"] == pytest.approx(15 * HEADROOM)
    assert shown["reason"]["code"] == "imds-unreachable"


def test_an_image_with_a_quota_asks_where_the_agent_answers() -> None:
    files = rendered(quota={"messages_per_second": 14})
    table = parameters(files["root/etc/postfix/main.cf"])["smtp_connection_cache_destinations"]
    assert table == "socketmap:inet:{}:{}:rate".format(*ADDRESS)
    assert json.loads(files["root/etc/relay/agent.json"])["quota"] == {
        "messages_per_second": 14,
        "source": "config",
        "share": "fleet",
        "sessions": 100,
    }


def test_the_agent_knows_every_transport_that_waits_for_the_rate(files: Places) -> None:
    text = rendered(
        quota={"messages_per_second": 14},
        routes=[
            {
                "name": "b",
                "preset": "ses",
                "region": "us-east-1",
                "secret": "relay/b",
                "sender_domains": ["b.example"],
            },
            {"name": "c", "preset": "postmark", "secret": "relay/c", "sender_domains": ["c.example"]},
        ],
    )["root/etc/relay/agent.json"]
    files.agent_json.write_text(text)
    found = read_quota(files)
    assert found is not None
    assert found.sessions == {"smtp": 100, "to-b": 100}


def test_an_image_without_a_quota_asks_nobody() -> None:
    values = parameters(rendered()["root/etc/postfix/main.cf"])
    assert values["smtp_connection_cache_destinations"] == "static:all"


def unknown() -> Any:
    """Stand for a source that does not answer."""
    raise Trouble("quota-unknown", "Nobody knows")
