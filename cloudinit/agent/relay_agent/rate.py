"""This relay's share of the account's sending rate: quota divided by relays in service, kept up to date.

    agent.json  "quota": {"messages_per_second": 14, "source": "config", "share": "fleet", "sessions": 100}
    source      config, preset: the figure above. ses_get_send_quota: Amazon SES is asked (ses:GetSendQuota)
    share       fleet: divided by the relays in service; node: all of it is this relay's
    relays      the number in /run/relay/fleet-size if it exists, else `fleet_size` of boot.json or
                agent.json: a number, or `auto_scaling` to count this instance's group; else 1

`Rate` decides, `relay_agent.pace` lets the messages go. What cannot be found out keeps its last value; while
no rate is known nothing is slowed, and the reason is reported.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from typing import Any, Callable, Mapping, Optional

from relay_agent import loops, programs
from relay_agent import settings as config
from relay_agent.imds import Imds
from relay_agent.logs import Log
from relay_agent.maillog import Event
from relay_agent.pace import ADDRESS, LONGEST_WAIT_SECONDS, Bucket, Gate, LogReader
from relay_agent.places import Places
from relay_agent.postfix import Postfix
from relay_agent.secret import Library
from relay_agent.trouble import Trouble

SOURCES = ("config", "preset", "ses_get_send_quota")
SHARES = ("fleet", "node")
# The provider counts in windows of its own, and what is on the way bunches up: a tenth of a second of delay
# here and none there is a tenth more in a second.
HEADROOM = 0.9
_POLL_SECONDS = 30.0
_SOON_SECONDS = 5.0
_ROUND_SECONDS = 1.0
_CONNECT_SECONDS, _READ_SECONDS = 5, 10


@dataclass(frozen=True)
class Quota:
    """What agent.json says; `sessions` is the concurrency that the image was baked with."""

    messages_per_second: Optional[float]
    source: str
    share: str
    sessions: int


def read_quota(places: Places) -> Optional[Quota]:
    """Read the quota of agent.json; None when there is none.

    Errors: Trouble `config-invalid`.
    """
    values = _read(places.agent_json).get("quota")
    if values is None:
        return None
    if not isinstance(values, dict):
        raise _invalid("`quota` is no object")
    rate, source = values.get("messages_per_second"), values.get("source", "config")
    share, sessions = values.get("share", "fleet"), values.get("sessions", 20)
    if source not in SOURCES or share not in SHARES:
        raise _invalid(f"`quota.source` is one of {', '.join(SOURCES)}, `quota.share` of {', '.join(SHARES)}")
    if rate is not None and not (_is_number(rate) and rate > 0):
        raise _invalid("`quota.messages_per_second` is not a number above 0")
    if rate is None and source != "ses_get_send_quota":
        raise _invalid("`quota.messages_per_second` is missing")
    if not isinstance(sessions, int) or sessions < 1:
        raise _invalid("`quota.sessions` is not a whole number above 0")
    return Quota(None if rate is None else float(rate), source, share, sessions)


def count_relays(places: Places, by_group: Callable[[], int]) -> int:
    """Return how many relays are in service, as said at the top; `by_group` counts the Auto Scaling group.

    Errors: Trouble `config-invalid`, and those of `by_group`.
    """
    written = places.run_dir / "fleet-size"
    try:
        found: Any = int(written.read_text(encoding="ascii"))
    except FileNotFoundError:
        found = {**_read(places.agent_json), **_read(places.boot_json)}.get("fleet_size", 1)
    except (OSError, ValueError):
        found = None
    if found == "auto_scaling":
        return by_group()
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise _invalid("the number of relays is not a whole number above 0")
    return found


class Aws:
    """Asks Amazon SES and EC2 Auto Scaling as this instance's role; one try per call."""

    def __init__(
        self, library: Library, imds: Imds, region: Callable[[], str], *, endpoint: Optional[str] = None
    ) -> None:
        self._library, self._imds, self._region, self._endpoint = library, imds, region, endpoint

    def send_rate(self) -> Optional[float]:
        """Return the account's messages (recipients) per second; None when SES sets no limit.

        Source: https://docs.aws.amazon.com/ses/latest/APIReference/API_GetSendQuota.html
        """
        rate = self._ask("ses", "get_send_quota").get("MaxSendRate")
        if rate is None or not _is_number(rate):
            raise Trouble("quota-unknown", "Amazon SES gave no MaxSendRate")
        return float(rate) if rate > 0 else None

    def relays_in_service(self) -> int:
        """Count what is in service in this instance's Auto Scaling group, this one at least."""
        me = self._imds.instance_id()
        instances = self._ask("autoscaling", "describe_auto_scaling_instances", InstanceIds=[me])
        found = instances.get("AutoScalingInstances") or []
        if not found:
            return 1
        name = found[0]["AutoScalingGroupName"]
        groups = self._ask("autoscaling", "describe_auto_scaling_groups", AutoScalingGroupNames=[name])
        members = [item for group in groups.get("AutoScalingGroups", []) for item in group["Instances"]]
        # A relay that is being taken out still delivers what it has.
        sending = [item for item in members if item["LifecycleState"] in ("InService", "Terminating:Wait")]
        return max(1, len({item["InstanceId"] for item in sending} | {me}))

    def _ask(self, service: str, call: str, **values: Any) -> Mapping[str, Any]:
        session = self._library.session()
        import botocore.exceptions
        from botocore.config import Config

        role = self._imds.role_credentials()
        try:
            client = session.create_client(
                service,
                region_name=self._region(),
                endpoint_url=self._endpoint,
                aws_access_key_id=role.access_key_id,
                aws_secret_access_key=role.secret_access_key,
                aws_session_token=role.token or None,
                config=Config(
                    connect_timeout=_CONNECT_SECONDS, read_timeout=_READ_SECONDS, retries={"max_attempts": 0}
                ),
            )
            answer: Mapping[str, Any] = getattr(client, call)(**values)
        except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError) as error:
            raise Trouble(
                "quota-unknown",
                f"{service} does not answer {call}: {error}",
                hint="The role needs ses:GetSendQuota and autoscaling:DescribeAutoScaling*",
            ) from None
        return answer


class Sessions:
    """Keeps the concurrency low enough that no message waits too long for its turn; changed on real need."""

    def __init__(self, postfix: Postfix, baked: int) -> None:
        self._postfix, self._baked = postfix, baked

    def fit(self, rate: Optional[float]) -> bool:
        """Set the limit for this rate and reload; False when it is right already. Errors: Trouble."""
        wanted = self._baked if rate is None else sessions_for(rate, self._baked)
        name = "smtp_destination_concurrency_limit"
        ended = programs.run(self._postfix.command("postconf", "-h", name))
        if ended.stdout.strip() == str(wanted):
            return False
        initial = f"smtp_initial_destination_concurrency={min(wanted, 20)}"
        ended = programs.run(self._postfix.command("postconf", "-e", f"{name}={wanted}", initial))
        if ended.returncode != 0:
            raise Trouble("postfix-config", f"`postconf -e {name}` failed: {ended.last_line}")
        self._postfix.reload()
        return True


def sessions_for(rate: float, most: int) -> int:
    """Return how many messages may wait at once so that the last one waits a minute at most."""
    return max(1, min(most, int(rate * LONGEST_WAIT_SECONDS)))


class Rate:
    """Decides this relay's rate; `check` looks again when it is due."""

    def __init__(
        self,
        share: str,
        bucket: Bucket,
        *,
        account: Callable[[], Optional[float]],
        relays: Callable[[], int],
        fit: Callable[[Optional[float]], object] = lambda _rate: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._share, self._bucket, self._monotonic = share, bucket, monotonic
        self._account, self._relays, self._fit = account, relays, fit
        self._due = 0.0
        self._is_known = False
        self.account: Optional[float] = None
        self.relays = 1
        self.trouble: Optional[Trouble] = None

    @property
    def own(self) -> Optional[float]:
        """This relay's messages per second; None: no limit."""
        if not self._is_known or self.account is None:
            return None
        return self.account * HEADROOM / (self.relays if self._share == "fleet" else 1)

    def check(self) -> bool:
        """Look again if it is time; True when the rate has changed and is in force."""
        if self._monotonic() < self._due:
            return False
        before, self.trouble = self.own, None
        try:
            self.account, self._is_known = self._account(), True
            if self._share == "fleet":
                self.relays = self._relays()
            self._fit(self.own)
        except Trouble as trouble:
            self.trouble = trouble
        except Exception as error:  # noqa: BLE001 - whatever it is, the last rate stays and it is tried again
            self.trouble = loops.failed("rate", error)
        self._due = self._monotonic() + (_SOON_SECONDS if self.trouble else _POLL_SECONDS)
        self._bucket.set_rate(self.own)
        return self.own != before

    def as_json(self) -> dict[str, Any]:
        """Return what `status.json` shows."""
        return {
            "account_per_second": self.account,
            "relays": self.relays,
            "share": self._share,
            "own_per_second": self.own,
            "in_force_per_second": self._bucket.rate(),
            "reason": self.trouble.as_json() if self.trouble else None,
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
        if quota is None:
            return None
        gate = Gate(Bucket(), port=port)
        gate.start()
    except (Trouble, OSError) as error:
        log.error("the sending rate is not limited", error=str(error))
        return None
    is_asked = quota.source == "ses_get_send_quota"
    rate = Rate(
        quota.share,
        gate.bucket,
        account=lambda: _aws(places, library).send_rate() if is_asked else quota.messages_per_second,
        relays=lambda: count_relays(places, lambda: _aws(places, library).relays_in_service()),
        fit=Sessions(postfix, quota.sessions).fit,
    )
    RateThread(rate, log, publish).start()
    return LogReader(gate.bucket).observe


def _aws(places: Places, library: Library) -> Aws:
    """Build the client from the files as they are now: boot.json may come late."""
    settings = config.load(places)
    imds = Imds(settings.imds_endpoint)
    region = settings.upstreams[0].region or settings.region
    return Aws(library, imds, lambda: region or imds.region())


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
