"""relayctl with a relay around it: what the agent wrote, and fake programs."""

from __future__ import annotations

import io
import json
import time

from relay_agent.board import Board
from relay_agent.ctl.__main__ import main
from relay_agent.ctl.context import Context, Out
from relay_agent.places import Places
from relay_agent.traffic import Traffic

from tests.agent.relay_world import FakePostfix, agent_json, write_json
from tests.agent.test_agent_health import UPSTREAM, fill
from tests.fakes import FakeTool, FakeTools

NFT = json.dumps(
    {
        "nftables": [
            {"metainfo": {}},
            {"set": {"name": "networks4", "elem": [{"prefix": {"addr": "10.0.0.0", "len": 8}}]}},
            {"set": {"name": "management4", "elem": ["192.0.2.1"]}},
        ]
    }
)
PARAMETERS = """\
for name; do :; done
case "$1$2" in
-MX*) rm -f {state}/listener ;;
-M*) [ -e {state}/listener ] && echo 'smtp inet n - n - - smtpd' ;;
-xhmynetworks) echo '127.0.0.0/8 [::1]/128 10.0.0.0/8' ;;
-xhmessage_size_limit) echo 1000 ;;
-xhrelayhost) echo '[localhost]:587' ;;
-xhmyorigin) echo example.com ;;
*) echo "$name" ;;
esac
"""


def entry(
    number: int, reason: str = "host h[1] said: 454 Throttling failure", queue: str = "deferred"
) -> str:
    return json.dumps(
        {
            "queue_name": queue,
            "queue_id": f"4bXyZ1{number}",
            "arrival_time": int(time.time()) - 60 * number,
            "message_size": 1000,
            "sender": "app@example.com",
            "recipients": [{"address": "a@example.org", "delay_reason": reason}],
        }
    )


class Ctl:
    """relayctl with its relay around it."""

    def __init__(self, places: Places, postfix: FakePostfix, fake_tool: FakeTools) -> None:
        self.places, self.postfix, self.fake_tool = places, postfix, fake_tool
        self.answers: list[str] = []
        self.questions: list[str] = []
        fake_tool("postconf", PARAMETERS.format(state=postfix.folder))
        self.nft = fake_tool("nft", f"echo '{NFT}'")
        self.postcat = fake_tool("postcat", "echo 'Subject: hello'")
        self.postsuper = fake_tool("postsuper", "echo 'postsuper: Deleted: 1 message' >&2")
        fake_tool("timedatectl", "echo yes")
        self.set_log()
        places.spool.mkdir(parents=True)
        write_json(places.agent_json, agent_json())
        board = Board(places, Traffic(), version="0.1.0")
        fill(board)
        board.set(upstreams=[{**UPSTREAM, "port": 587, "secret": "relay/ses", "proven_at": 1000.0}])
        self.board = board
        board.write()

    def set_log(self, *lines: tuple[str, str]) -> FakeTool:
        """What the journal holds."""
        entries = [
            json.dumps({"SYSLOG_IDENTIFIER": program, "MESSAGE": message, "__CURSOR": "x"})
            for program, message in lines
        ]
        path = self.places.root / "journal"
        path.write_text("".join(line + "\n" for line in entries))
        return self.fake_tool("journalctl", f"cat {path}")

    def __call__(self, *arguments: str) -> tuple[int, str]:
        out = io.StringIO()

        def ask(question: str) -> str:
            self.questions.append(question)
            return self.answers.pop(0)

        context = Context(self.places, Out(out), ask=ask, sleep=lambda _seconds: None)
        return main(arguments, context), out.getvalue()


def steps(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for step in json.loads(text)["steps"]:
        found.setdefault(step["step"], []).append(f"{step['state']}: {step['evidence']}")
    return found
