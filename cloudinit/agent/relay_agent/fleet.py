"""How many relays share the account, and how much it may send: what is told, and what AWS is asked for.

    /run/relay/fleet-size   a number, written by whatever manages the relays
    boot.json, agent.json   `fleet_size`: a number, or `auto_scaling` to count this instance's group
    none of these           the group is counted where the instance is in one, else the relay is alone

The first that is there counts. The files are looked at each second; AWS is asked for the group about twice a
minute, for the account's rate about every five, and more rarely while it does not answer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Mapping, Optional, Tuple, Union

from relay_agent import settings as config
from relay_agent.imds import Imds
from relay_agent.places import Places, changed_at
from relay_agent.secret import Library
from relay_agent.settings import AUTO_SCALING, Settings
from relay_agent.trouble import Trouble

_CONNECT_SECONDS, _READ_SECONDS = 5, 10
# A relay that is being taken out still delivers what it has.
_SENDING = ("InService", "Terminating:Wait")
# https://docs.aws.amazon.com/autoscaling/ec2/APIReference/CommonErrors.html
_DENIALS = ("AccessDenied", "AccessDeniedException", "InvalidClientTokenId", "UnauthorizedOperation")
_HINT = (
    "The role needs ses:GetSendQuota, autoscaling:DescribeAutoScalingInstances and "
    "autoscaling:DescribeAutoScalingGroups; or name the relays with `fleet_size` and the rate in relay.yaml"
)


class Fleet:
    """Counts the relays that share the account, as said at the top; `ask` gives what asks AWS."""

    def __init__(self, places: Places, ask: Callable[[Settings], Aws]) -> None:
        self._places, self._ask = places, ask
        self._is_alone = self._was_in_group = False

    def count(self) -> int:
        """Return the number. Errors: Trouble; then nobody knows, and the last number is the best there is."""
        written = _written(self._places)
        if written is not None:
            return written
        settings = config.load(self._places)
        if isinstance(settings.fleet_size, int):
            return settings.fleet_size
        aws = self._ask(settings)
        if settings.fleet_size == AUTO_SCALING:
            return aws.group_size() or 1
        return self._count_by_itself(aws)

    def _count_by_itself(self, aws: Aws) -> int:
        """Count the group if there is one; outside of any it needs no permission, and is no trouble.

        The metadata service shows membership, but may lose it when EC2 moves the instance to another host,
        so what it does not show is asked for once, and always where it was shown before.
        """
        if aws.is_in_group():
            self._was_in_group, self._is_alone = True, False
        elif self._is_alone:
            return 1
        try:
            found = aws.group_size()
        except Trouble as trouble:
            if self._was_in_group:
                raise
            self._is_alone = isinstance(trouble, _Denied)
            return 1
        self._is_alone, self._was_in_group = found is None, found is not None
        return found or 1


def told_at(places: Places) -> Tuple[int, ...]:
    """Return when each file that says the number was written: another value calls for another count."""
    return tuple(changed_at(path) for path in (_file(places), places.boot_json, places.agent_json))


def _file(places: Places) -> Path:
    return places.run_dir / "fleet-size"


def _written(places: Places) -> Optional[int]:
    try:
        number = int(_file(places).read_text(encoding="ascii"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        number = 0
    if number < 1:
        raise Trouble(
            "config-invalid",
            f"`{_file(places)}` does not hold the number of relays, a whole number above 0",
            hint="Write the number, or remove the file",
        )
    return number


class Aws:
    """Asks Amazon SES and EC2 Auto Scaling as this instance's role; one try per call.

    `region` is that of SES; the group is where the instance is. `endpoint` stands for both services in tests.
    """

    def __init__(
        self, library: Library, imds: Imds, region: Callable[[], str], *, endpoint: Optional[str] = None
    ) -> None:
        self._library, self._imds, self._region, self._endpoint = library, imds, region, endpoint

    def send_rate(self) -> Optional[float]:
        """Return the account's messages (recipients) per second; None when SES sets no limit.

        Source: https://docs.aws.amazon.com/ses/latest/APIReference/API_GetSendQuota.html
        """
        rate: Union[None, int, float] = self._ask("ses", self._region(), "get_send_quota").get("MaxSendRate")
        if not isinstance(rate, (int, float)) or isinstance(rate, bool):
            raise Trouble("quota-unknown", "Amazon SES gave no MaxSendRate")
        return float(rate) if rate > 0 else None

    def is_in_group(self) -> bool:
        """Say whether the metadata service shows a group; this needs no permission. Errors: Trouble."""
        return self._imds.is_in_auto_scaling_group()

    def group_size(self) -> Optional[int]:
        """Count what is in service in this instance's Auto Scaling group, this one too; None: no group."""
        me = self._imds.instance_id()
        instances = self._ask_group("describe_auto_scaling_instances", InstanceIds=[me])
        found = instances.get("AutoScalingInstances") or []
        if not found:
            return None
        name = found[0]["AutoScalingGroupName"]
        groups = self._ask_group("describe_auto_scaling_groups", AutoScalingGroupNames=[name])
        members = [item for group in groups.get("AutoScalingGroups", []) for item in group["Instances"]]
        sending = {item["InstanceId"] for item in members if item["LifecycleState"] in _SENDING}
        return len(sending | {me})

    def _ask_group(self, call: str, **values: Any) -> Mapping[str, Any]:
        return self._ask("autoscaling", self._imds.region(), call, **values)

    def _ask(self, service: str, region: str, call: str, **values: Any) -> Mapping[str, Any]:
        session = self._library.session()
        import botocore.exceptions
        from botocore.config import Config

        role = self._imds.role_credentials()
        try:
            client = session.create_client(
                service,
                region_name=region,
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
            code = getattr(error, "response", {}).get("Error", {}).get("Code")
            kind = _Denied if code in _DENIALS else Trouble
            raise kind("quota-unknown", f"{service} does not answer {call}: {error}", hint=_HINT) from None
        return answer


class _Denied(Trouble):
    """The role may not ask, or AWS does not know it."""
