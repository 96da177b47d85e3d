"""This relay's share of the account's sending rate: quota divided by relays in service, kept up to date.

    agent.json  "quota": {"messages_per_second": 14, "source": "config", "share": "fleet", "sessions": 100,
                          "transports": {"to-b": 50}}
    source      config, preset: the figure above. ses_get_send_quota: Amazon SES is asked (ses:GetSendQuota)
    share       fleet: divided by the relays in service (`relay_agent.fleet`); node: all of it
                is this relay's
    sessions    the concurrency of transport `smtp`; transports: of others whose mail waits for the same rate

`Rate` decides, `relay_agent.pace` lets the messages go. What cannot be found out keeps its last value, the
account's rate over a reboot too; the relays are one at first. While no rate is known nothing is slowed. In
each case the reason is reported.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import threading
import time
from dataclasses import dataclass
from typing import Any, Callable, Mapping, Optional

from relay_agent import loops, programs
from relay_agent import settings as config
from relay_agent.fleet import Aws, Fleet, told_at
from relay_agent.imds import Imds
from relay_agent.logs import Log
from relay_agent.maillog import Event
from relay_agent.maps import write_whole
from relay_agent.pace import ADDRESS, Bucket, Gate, LogReader
from relay_agent.places import Places
from relay_agent.poll import Poll
from relay_agent.postfix import Postfix
from relay_agent.secret import Library
from relay_agent.settings import Settings
from relay_agent.trouble import Trouble

SOURCES = ("config", "preset", "ses_get_send_quota")
SHARES = ("fleet", "node")
# The provider counts in windows of its own, and what is on the way bunches up: a tenth of a second of delay
# here and none there is a tenth more in a second.
HEADROOM = 0.9
# Few enough for a fleet of a hundred: SES answers one a second for the account, whoever else asks.
_ACCOUNT_SECONDS = 300.0
_RELAYS_SECONDS = _FIT_SECONDS = 30.0
_ROUND_SECONDS = 1.0
# How long the last of those that wait for their turn at once may have to wait.
_LONGEST_WAIT_SECONDS = 60.0
_MOST_AT_FIRST = 20
_TRANSPORT = re.compile(r"[a-z0-9][a-z0-9-]*")


@dataclass(frozen=True)
class Quota:
    """What agent.json says; `sessions` is each transport's concurrency in the image, `host` the account's."""

    messages_per_second: Optional[float]
    source: str
    share: str
    sessions: Mapping[str, int]
    host: str


def read_quota(places: Places) -> Optional[Quota]:
    """Read the quota of agent.json; None when there is none.

    Errors: Trouble `config-invalid`.
    """
    baked = _read(places.agent_json)
    values = baked.get("quota")
    if values is None:
        return None
    if not isinstance(values, dict):
        raise _invalid("`quota` is no object")
    rate, source = values.get("messages_per_second"), values.get("source", "config")
    share = values.get("share", "fleet")
    if source not in SOURCES or share not in SHARES:
        raise _invalid(f"`quota.source` is one of {', '.join(SOURCES)}, `quota.share` of {', '.join(SHARES)}")
    if rate is not None and not (_is_number(rate) and rate > 0):
        raise _invalid("`quota.messages_per_second` is not a number above 0")
    if rate is None and source != "ses_get_send_quota":
        raise _invalid("`quota.messages_per_second` is missing")
    try:
        host = str(baked["upstreams"][0]["host"])
    except (LookupError, TypeError):
        raise _invalid("`upstreams` names no host") from None
    return Quota(None if rate is None else float(rate), source, share, _sessions(values), host)


def _sessions(values: Mapping[str, Any]) -> dict[str, int]:
    """Return the concurrency of `smtp`, which leads to `relayhost`, and of others that lead there too."""
    others = values.get("transports", {})
    if not isinstance(others, dict) or not all(map(_TRANSPORT.fullmatch, others)):
        raise _invalid("`quota.transports` is not an object of transports and their concurrency")
    sessions = {"smtp": values.get("sessions", 20), **others}
    for name, count in sessions.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            key = "sessions" if name == "smtp" else f"transports.{name}"
            raise _invalid(f"`quota.{key}` is not a whole number above 0")
    return sessions


class Account:
    """The account's rate: as agent.json says, or as Amazon SES says, and as it said last while it does not.

    That is kept over a restart and a reboot, for this host: it stands for SES in one region.
    """

    def __init__(self, places: Places, quota: Quota, ask: Callable[[], Optional[float]]) -> None:
        self._path, self._quota, self._ask = places.account_rate, quota, ask
        self._is_asked = quota.source == "ses_get_send_quota"

    def at_first(self) -> Optional[float]:
        """Return what is known before anybody is asked; None: no limit."""
        if not self._is_asked:
            return self._quota.messages_per_second
        try:
            kept = json.loads(self._path.read_text(encoding="utf-8"))
            host, rate = kept["host"], kept["messages_per_second"]
        except (OSError, ValueError, LookupError, TypeError):
            return None
        return float(rate) if host == self._quota.host and _is_number(rate) and rate > 0 else None

    def find(self) -> Optional[float]:
        """Return the rate, and keep what SES says. Errors: Trouble."""
        if not self._is_asked:
            return self._quota.messages_per_second
        rate = self._ask()
        if rate != self.at_first():
            kept = json.dumps({"host": self._quota.host, "messages_per_second": rate}) + "\n"
            # Without room on the disk it is only not known after the next start.
            with contextlib.suppress(OSError):
                write_whole(self._path, kept, mode=0o644)
        return rate


class Sessions:
    """Keeps the concurrency low enough that no message waits too long for its turn; changed on real need.

    That of all transports whose mail waits: they stand in one queue.
    """

    def __init__(self, postfix: Postfix, baked: Mapping[str, int]) -> None:
        self._postfix, self._baked = postfix, baked

    def fit(self, rate: Optional[float]) -> bool:
        """Set the limits for this rate and reload; False when they are right already. Errors: Trouble."""
        wanted = self._baked if rate is None else sessions_for(rate, self._baked)
        limits = {f"{name}_destination_concurrency_limit": count for name, count in wanted.items()}
        ended = programs.run(self._postfix.command("postconf", *limits))
        if {f"{name} = {count}" for name, count in limits.items()} <= set(ended.stdout.splitlines()):
            return False
        for name, count in wanted.items():
            limits[f"{name}_initial_destination_concurrency"] = min(count, _MOST_AT_FIRST)
        ended = programs.run(
            self._postfix.command("postconf", "-e", *(f"{name}={count}" for name, count in limits.items()))
        )
        if ended.returncode != 0:
            raise Trouble("postfix-config", f"`postconf -e {next(iter(limits))}` failed: {ended.last_line}")
        self._postfix.reload()
        return True


def sessions_for(rate: float, baked: Mapping[str, int]) -> dict[str, int]:
    """Return how many messages of each transport may wait at once so that the last one waits a minute.

    What a transport with a low limit of its own leaves goes to the others; each has one at least.
    """
    left, wanted = int(rate * _LONGEST_WAIT_SECONDS), {}
    by_limit = sorted(baked, key=lambda name: baked[name])
    for number, name in enumerate(by_limit):
        wanted[name] = max(1, min(baked[name], left // (len(by_limit) - number)))
        left -= wanted[name]
    return {name: wanted[name] for name in baked}


class Rate:
    """Decides this relay's rate; `check` looks at what is due, or at what `hint` gives another value for.

    The account's rate and the number of relays are asked for apart: Amazon SES answers one GetSendQuota a
    second for the whole account. `account_at_first` is in force until the first answer.
    """

    def __init__(
        self,
        share: str,
        bucket: Bucket,
        *,
        account: Callable[[], Optional[float]],
        relays: Callable[[], int],
        account_at_first: Optional[float] = None,
        fit: Callable[[Optional[float]], object] = lambda _rate: None,
        hint: Callable[[], object] = lambda: None,
        gate_trouble: Callable[[], Optional[Trouble]] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
        spread: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._share, self._bucket = share, bucket
        self._account, self._relays, self._fit = account, relays, fit
        self._hint, self._hinted, self._gate_trouble = hint, object(), gate_trouble
        self.account = account_at_first
        self.relays = 1
        self._said: Optional[float] = None
        self._fitted: object = None

        def poll(ask: Callable[[], None], seconds: float) -> Poll:
            return Poll(ask, seconds=seconds, loop="rate", monotonic=monotonic, spread=spread)

        self._account_poll = poll(self._find_account, _ACCOUNT_SECONDS)
        self._relays_poll = poll(self._find_relays, _RELAYS_SECONDS)
        self._fit_poll = poll(self._fit_sessions, _FIT_SECONDS)
        self._bucket.set_rate(self.own)

    @property
    def own(self) -> Optional[float]:
        """This relay's messages per second; None: no limit."""
        if self.account is None:
            return None
        return self.account * HEADROOM / (self.relays if self._share == "fleet" else 1)

    @property
    def trouble(self) -> Optional[Trouble]:
        """What could not be found out or set the last time; the value before stays."""
        polls = (self._account_poll, self._relays_poll, self._fit_poll)
        return next((poll.trouble for poll in polls if poll.trouble), None)

    def check(self) -> bool:
        """Look at what is due, or was hinted at; True when the rate has changed and is in force."""
        hinted = self._hint()
        is_hinted, self._hinted = hinted != self._hinted, hinted
        # The files say nothing of the quota, only how it is asked for: a hint may mend that.
        self._account_poll.check(at_once=is_hinted and self._account_poll.trouble is not None)
        self._relays_poll.check(at_once=is_hinted)
        self._bucket.set_rate(self.own)
        self._fit_poll.check(at_once=self.own != self._fitted)
        before, self._said = self._said, self.own
        return self.own != before

    def _find_account(self) -> None:
        self.account = self._account()

    def _find_relays(self) -> None:
        if self._share == "fleet":
            self.relays = self._relays()

    def _fit_sessions(self) -> None:
        self._fitted = self.own
        self._fit(self.own)

    def as_json(self) -> dict[str, Any]:
        """Return what `status.json` shows; without the gate no rate is in force."""
        gate = self._gate_trouble()
        return {
            "account_per_second": self.account,
            "relays": self.relays,
            "share": self._share,
            "own_per_second": self.own,
            "in_force_per_second": None if gate else self._bucket.rate(),
            "reason": self.trouble.as_json() if self.trouble else None,
            "paced": gate is None,
            "gate_reason": gate.as_json() if gate else None,
        }


class RateThread:
    """Checks the rate beside the agent's loop: an answer of AWS that is late must not delay a credential."""

    def __init__(self, rate: Rate, log: Log, publish: Callable[[dict[str, Any]], None]) -> None:
        self._rate, self._log, self._publish = rate, log, publish
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rate", daemon=True)
        self._said = ""

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; the rate stays as it is."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(5)

    def _run(self) -> None:
        loops.keep_going("rate", self._keep, stopping=self._stopping, log=self._log)

    def _keep(self) -> None:
        while not self._stopping.is_set():
            if self._rate.check():
                self._log.info("rate", **self._rate.as_json())
            trouble = self._rate.trouble
            if trouble is not None and trouble.message != self._said:
                self._log.warning("rate", **trouble.as_json())
            self._said = trouble.message if trouble else ""
            self._publish(self._rate.as_json())
            self._stopping.wait(_ROUND_SECONDS)


def start(
    places: Places,
    library: Library,
    postfix: Postfix,
    log: Log,
    publish: Callable[[dict[str, Any]], None],
    *,
    port: int = ADDRESS[1],
) -> Optional[Callable[[Event, float], None]]:
    """Start gate and rate when agent.json has a quota; return what wants the events of the mail log.

    It never fails: mail that is not paced is better than none.
    """
    try:
        quota = read_quota(places)
    except Trouble as trouble:
        log.error("the sending rate is not limited", **trouble.as_json())
        publish(_not_limited(trouble))
        return None
    if quota is None:
        return None
    gate = Gate(Bucket(), port=port, log=log)

    def ask(settings: Optional[Settings] = None) -> Aws:
        # From the files as they are now: boot.json may come late.
        return _aws(settings or config.load(places), library)

    account = Account(places, quota, lambda: ask().send_rate())
    rate = Rate(
        quota.share,
        gate.bucket,
        account=account.find,
        account_at_first=account.at_first(),
        relays=Fleet(places, ask).count,
        fit=Sessions(postfix, quota.sessions).fit,
        hint=lambda: told_at(places),
        gate_trouble=lambda: gate.trouble,
    )
    # With the rate of before, which the first message has to keep too.
    gate.start()
    RateThread(rate, log, publish).start()
    return LogReader(gate.bucket, quota.host).observe


def _aws(settings: Settings, library: Library) -> Aws:
    imds = Imds(settings.imds_endpoint)
    region = settings.upstreams[0].region or settings.region
    return Aws(library, imds, lambda: region or imds.region())


def _not_limited(trouble: Trouble) -> dict[str, Any]:
    """Return what `status.json` shows while agent.json cannot be followed."""
    rate = Rate("fleet", Bucket(), account=lambda: None, relays=lambda: 1, gate_trouble=lambda: trouble)
    return rate.as_json()


def _read(path: Any) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise _invalid(f"`{path.name}` cannot be read: {error}") from None
    return values if isinstance(values, dict) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _invalid(text: str) -> Trouble:
    return Trouble(
        "config-invalid", f"Sending rate: {text}", hint="Correct relay.yaml, or the launch user data"
    )
