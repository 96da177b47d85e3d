"""The stand-ins together, from another process, and over their JSON interface."""

from __future__ import annotations

import io
import json
import smtplib
import ssl
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import aws
from builder.errors import BuilderError
from builder.process import Running
from builder.standin.control import Control, call
from builder.standin.provider import Provider
from builder.standin.stack import QEMU_HOST, StandIns
from tests.unit.standin_client import PASSWORD, USER, connected, logged_in, send


@pytest.fixture
def url(provider: Provider) -> Iterator[str]:
    with Control(provider) as control:
        yield control.url


def test_messages_and_counts_are_read_over_http(provider: Provider, url: str) -> None:
    with logged_in(provider) as client:
        send(client)
        send(client)

    assert call(url, "GET", "/wait?messages=2&seconds=5")["messages"] == 2
    (second,) = call(url, "GET", "/messages?since=1")
    assert (second["number"], second["message_id"]) == (2, "<1@example.com>")
    assert call(url, "GET", "/auths")[0]["password_is"] == "current"
    assert call(url, "GET", "/sessions")[0]["user"] == USER
    assert call(url, "GET", "/leaks") == []
    assert call(url, "GET", "/")["port"] == provider.port


def test_behaviours_are_set_over_http(provider: Provider, url: str) -> None:
    call(url, "PUT", "/behaviours", [{"fault": "throttled"}])
    call(url, "POST", "/next-messages", {"count": 1, "behaviours": [{"fault": "gmail_quota"}]})
    with logged_in(provider) as client:
        assert [send(client), send(client)] == [550, 454]
        call(url, "DELETE", "/behaviours")
        assert send(client) == 250

    assert [item["reply"][:3] for item in call(url, "GET", "/refusals")] == ["550", "454"]
    call(url, "POST", "/next-sessions", {"count": 1, "behaviours": [{"fault": "greeting_421"}]})
    with pytest.raises(smtplib.SMTPConnectError):
        smtplib.SMTP("localhost", provider.port)


def test_passwords_are_changed_over_http(provider: Provider, url: str) -> None:
    call(url, "PUT", f"/users/{USER}", {"password": "new", "keep_old": True})
    with logged_in(provider):
        pass
    call(url, "DELETE", f"/users/{USER}")
    with pytest.raises(smtplib.SMTPException), logged_in(provider):
        pass


def test_records_and_sessions_are_dropped_over_http(provider: Provider, url: str) -> None:
    with connected(provider):
        assert call(url, "POST", "/drop-sessions") == {"dropped": 1}
    call(url, "DELETE", "/records")
    assert call(url, "GET", "/")["counts"]["sessions"] == 0


@pytest.mark.parametrize(
    ("method", "path", "body", "message"),
    [
        ("GET", "/nothing", None, "There is no `GET /nothing`"),
        ("PUT", "/behaviours", {}, "A list of behaviours is expected"),
        ("PUT", "/behaviours", [{"fault": "x"}], "`fault` of a behaviour is `x`"),
        ("POST", "/next-sessions", [], "needs a JSON object with `count`"),
        ("POST", "/next-sessions", {"count": "x", "behaviours": []}, "Not understood"),
        ("GET", "/wait", None, "`/wait` needs a counter"),
        ("GET", "/wait?messages=1&seconds=0.1", None, "did not see what was waited for"),
        ("PUT", "/users/u", {}, "needs a JSON object with `password`"),
    ],
)
def test_a_mistake_is_explained(url: str, method: str, path: str, body: object, message: str) -> None:
    with pytest.raises(BuilderError, match=message):
        call(url, method, path, body)


def test_an_interface_that_is_gone_is_a_clear_error(provider: Provider) -> None:
    with Control(provider) as control:
        url = control.url
    with pytest.raises(BuilderError, match="does not answer"):
        call(url, "GET", "/")


def test_the_stack_tells_a_guest_where_everything_is() -> None:
    with StandIns(
        secrets={"relay/ses": {"username": USER, "password": PASSWORD}, "relay/other": {"username": "x"}},
        users={USER: PASSWORD},
        region="eu-west-1",
        host_names=("localhost", "provider.example"),
        host_address=QEMU_HOST,
    ) as stand_ins:
        boot = stand_ins.boot_json
        assert stand_ins.hosts_line == f"{QEMU_HOST} localhost provider.example"
        assert boot["endpoint"] == f"http://{QEMU_HOST}:{stand_ins.secrets.port}"
        assert boot["imds_endpoint"] == f"http://{QEMU_HOST}:{stand_ins.metadata.port}"
        assert boot["upstream"] == {
            "port": stand_ins.provider.port,
            "ca_pem": stand_ins.provider.ca_pem,
        }
        assert (boot["secret"], boot["region"]) == ("relay/ses", "eu-west-1")
        assert PASSWORD not in json.dumps(boot)


def test_role_credentials_from_the_metadata_open_the_secret_and_the_provider(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    secret = {"username": USER, "password": PASSWORD}
    names = ("localhost",)
    with StandIns(
        secrets={"relay": secret}, users={USER: PASSWORD}, host_names=names, tls="implicit"
    ) as stand_ins:
        monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", stand_ins.imds_endpoint)
        client = aws.client("secretsmanager", region="us-east-1", endpoint=stand_ins.secrets_endpoint)
        read = json.loads(client.get_secret_value(SecretId="relay")["SecretString"])
        client.close()
        trust = ssl.create_default_context(cadata=stand_ins.boot_json["upstream"]["ca_pem"])
        port = stand_ins.boot_json["upstream"]["port"]
        with smtplib.SMTP_SSL("localhost", port, context=trust) as smtp:
            smtp.login(read["username"], read["password"])

    assert stand_ins.provider.auths[0].accepted


@pytest.mark.allow_programs("python", "python3", "python3.11")
def test_the_command_says_where_it_listens_and_ends_on_sigterm(tmp_path: Path) -> None:
    options = tmp_path / "options.json"
    options.write_text(json.dumps({"users": {USER: PASSWORD}, "host_names": ["localhost"]}))
    repository = Path(__file__).parents[2]
    argv: list[str | Path] = [
        sys.executable,
        "-m",
        "builder.standin",
        "--config",
        options,
        "--folder",
        tmp_path / "ca",
    ]
    log = tmp_path / "log"
    with Running(argv, log=log, cwd=repository) as running:
        where = _first_line(log)
        trust = ssl.create_default_context(cafile=where["ca_file"])
        with smtplib.SMTP("localhost", int(where["port"])) as client:
            client.starttls(context=trust)
            client.login(USER, PASSWORD)
            assert send(client) == 250
        assert call(where["control"], "GET", "/wait?messages=1")["messages"] == 1
        assert running.stop() == 0


def _first_line(log: Path) -> dict[str, str]:
    for _ in range(300):
        text = log.read_text() if log.exists() else ""
        if "\n" in text:
            found: dict[str, str] = json.loads(io.StringIO(text).readline())
            return found
        time.sleep(0.1)
    raise AssertionError(f"the command printed nothing: {log.read_text()}")
