"""`relayctl drain`: nothing more comes in, and what is left is told."""

from __future__ import annotations

import shutil

import pytest

from tests.agent.relay_world import agent_json, write_json
from tests.agent.relayctl_world import Ctl, entry


def test_drain_closes_flushes_and_waits_until_it_is_empty(ctl: Ctl) -> None:
    (ctl.postfix.folder / "listener").touch()
    ctl.postfix.start()
    ctl.postfix.set_queue(entry(1) + "\n")
    ctl.fake_tool(
        "postqueue", f"case $1 in -j) cat {ctl.postfix.folder}/queue; : >{ctl.postfix.folder}/queue ;; esac"
    )
    code, text = ctl("drain")
    assert (code, text.splitlines()[-1]) == (0, "The queue is empty")
    assert not ctl.postfix.has_listener
    assert not ctl.postfix.is_open
    assert ctl.places.draining.exists()


def test_drain_gives_up_in_time_and_says_what_is_left(ctl: Ctl) -> None:
    ctl.postfix.set_queue(entry(3) + "\n")
    code, text = ctl("drain", "--timeout", "0")
    assert code == 1
    assert "1 deferred, oldest 3 min" in text
    assert "1 recipients wait: throttled" in text
    assert ctl.postfix.flushes == 1


def test_drain_is_not_taken_in_by_a_message_between_two_queues(ctl: Ctl) -> None:
    looks = ctl.postfix.folder / "looks"
    # Nothing, then the message that was on its way, then nothing.
    ctl.fake_tool(
        "postqueue",
        f"[ $1 = -j ] || exit 0\necho x >>{looks}\n"
        f"[ $(wc -l <{looks}) -ne 2 ] || cat {ctl.postfix.folder}/queue",
    )
    ctl.postfix.set_queue(entry(1) + "\n")
    code, text = ctl("drain")
    assert code == 0
    assert text.splitlines()[1:] == [
        "0 messages left",
        "1 messages left",
        "0 messages left",
        "The queue is empty",
    ]
    assert len(looks.read_text().splitlines()) == 4


def test_drain_waits_on_when_the_queue_cannot_be_read_for_a_moment(ctl: Ctl) -> None:
    state = ctl.postfix.folder
    ctl.fake_tool(
        "postqueue", f"case $1 in -j) [ -e {state}/once ] || {{ touch {state}/once; exit 75; }} ;; esac"
    )
    code, text = ctl("drain")
    assert (code, text.splitlines()[-1]) == (0, "The queue is empty")


def test_drain_closes_the_submission_port_too_without_the_agent(ctl: Ctl) -> None:
    submission = {
        "service": "submission",
        "master_cf": "submission inet n - n - - smtpd",
        "secret": "relay/users",
        "certificate": "secret",
        "certificate_file": "/run/relay-users/tls.pem",
        "users_file": "/run/relay-users/sasldb2",
        "realm": "example.com",
        "port": 587,
    }
    write_json(ctl.places.agent_json, agent_json(submission=submission))
    postconf = ctl.fake_tool("postconf", "case $1 in -M) echo ${2%/inet} inet n ;; esac")
    ctl("drain")
    assert ["-MX", "submission/inet"] in postconf.calls
    assert ["-MX", "smtp/inet"] in postconf.calls


def test_a_drain_is_not_said_to_be_taken_back_when_there_is_no_agent(
    ctl: Ctl, capsys: pytest.CaptureFixture[str]
) -> None:
    ctl.places.draining.touch()
    ctl.places.status_json.unlink()
    assert ctl("drain", "--cancel")[0] == 1
    assert not ctl.places.draining.exists()
    assert "The agent has not written" in capsys.readouterr().err


def test_a_relay_without_its_folder_gives_an_error_and_no_traceback(
    ctl: Ctl, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(ctl.places.run_dir)
    assert ctl("drain")[0] == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_drain_can_be_taken_back(ctl: Ctl) -> None:
    ctl.places.draining.touch()
    assert ctl("drain", "--cancel")[0] == 0
    assert not ctl.places.draining.exists()
