"""How many relays share an account: as a launch says, as the image was baked, or as AWS has it."""

from __future__ import annotations

import io
import json
import queue
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
import yaml
from relay_agent import rate
from relay_agent import settings as config
from relay_agent.fleet import Aws, Fleet
from relay_agent.imds import Imds
from relay_agent.logs import Log
from relay_agent.places import Places
from relay_agent.postfix import Postfix
from relay_agent.rate import HEADROOM
from relay_agent.secret import Library
from relay_agent.settings import Settings
from relay_agent.trouble import Trouble

from builder.config import boot_config
from builder.render import render_boot
from builder.standin.metadata import Metadata
from builder.standin.secrets import SecretsManager
from tests.fakes import FakeTools
from tests.rendered import rendered

GROUP = "meta-data/autoscaling/target-lifecycle-state"
ACCOUNT = 40


@dataclass
class Cloud:
    """An account at moto, with an Auto Scaling group whose first member is this instance."""

    service: SecretsManager
    metadata: Metadata
    library: Library

    def client(self) -> Any:
        """Return boto's own client, as whoever manages the group has it."""
        return self.library.session().create_client(
            "autoscaling",
            region_name="us-east-1",
            endpoint_url=self.service.endpoint,
            aws_access_key_id="AKIAOPERATOR",
            aws_secret_access_key="only-for-the-stand-in",
        )

    def make_group(self, size: int) -> None:
        """Make a group of so many instances in service; this one is in it."""
        client = self.client()
        client.create_launch_configuration(
            LaunchConfigurationName="relay", ImageId="ami-12c6146b", InstanceType="t3.small"
        )
        client.create_auto_scaling_group(
            AutoScalingGroupName="relays",
            LaunchConfigurationName="relay",
            MinSize=0,
            MaxSize=20,
            DesiredCapacity=size,
            AvailabilityZones=["us-east-1a"],
        )
        group = client.describe_auto_scaling_groups()["AutoScalingGroups"][0]
        self.metadata.set("meta-data/instance-id", group["Instances"][0]["InstanceId"])

    def resize(self, size: int) -> None:
        """Change the number of instances."""
        self.client().set_desired_capacity(AutoScalingGroupName="relays", DesiredCapacity=size)

    def delete_group(self) -> None:
        """Leave nothing to the next test: moto has one account a process."""
        self.client().delete_auto_scaling_group(AutoScalingGroupName="relays", ForceDelete=True)
        self.client().delete_launch_configuration(LaunchConfigurationName="relay")


@pytest.fixture
def cloud(metadata: Metadata, library: Library, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    with SecretsManager() as service:
        # botocore's own setting: the agent then asks moto, and has no idea of it.
        monkeypatch.setenv("AWS_ENDPOINT_URL", service.endpoint)
        cloud = Cloud(service, metadata, library)
        yield cloud
        if cloud.client().describe_auto_scaling_groups()["AutoScalingGroups"]:
            cloud.delete_group()


class Refusing:
    """Answers every question of AWS's query protocol with an error; `code` is AWS's."""

    def __init__(self, code: str) -> None:
        body = f"<ErrorResponse><Error><Code>{code}</Code><Message>no</Message></Error></ErrorResponse>"
        self.asked = 0
        refusing = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                refusing.asked += 1
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(403)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, format: str, *args: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Refusing:
        Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def bake(files: Places, **quota: Any) -> None:
    """Write agent.json as an image has it."""
    text = rendered(quota={"messages_per_second": ACCOUNT, **quota})["root/etc/relay/agent.json"]
    files.agent_json.write_text(text)


def launch(files: Places, values: Mapping[str, Any]) -> None:
    """Write boot.json as cloud-init does from the user data of a launch."""
    user_data = yaml.safe_load(render_boot(boot_config(values)))
    files.boot_json.write_text(user_data["write_files"][0]["content"])


def fleet(files: Places, library: Library, endpoint: str | None = None) -> Fleet:
    """Return what counts, with AWS at `endpoint`."""

    def ask(settings: Settings) -> Aws:
        return Aws(library, Imds(settings.imds_endpoint), lambda: "us-east-1", endpoint=endpoint)

    return Fleet(files, ask)


# -- what is told


def test_a_number_at_launch_wins_over_the_baked_one_and_a_file_over_both(
    files: Places, library: Library
) -> None:
    bake(files, fleet_size=2)
    counted = fleet(files, library)
    assert counted.count() == 2
    launch(files, {"fleet_size": "5"})
    assert counted.count() == 5
    assert config.load(files).unknown == ()
    (files.run_dir / "fleet-size").write_text("3\n")
    assert counted.count() == 3


@pytest.mark.parametrize("written", ["0", "-1", "many", ""])
def test_a_file_that_holds_no_number_is_refused(files: Places, library: Library, written: str) -> None:
    bake(files)
    (files.run_dir / "fleet-size").write_text(written)
    with pytest.raises(Trouble, match="number of relays") as caught:
        fleet(files, library).count()
    assert caught.value.code == "config-invalid"


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "many", [], 10001])
def test_a_number_of_relays_that_is_none_is_refused_by_the_agent(files: Places, value: Any) -> None:
    bake(files)
    files.boot_json.write_text(json.dumps({"schema": 1, "fleet_size": value}))
    with pytest.raises(Trouble, match="fleet_size"):
        config.load(files)


# -- the group


def test_a_relay_that_is_in_no_group_is_alone_without_a_permission(
    files: Places, library: Library, metadata: Metadata
) -> None:
    metadata.set(GROUP, None)
    bake(files)
    launch(files, {"imds_endpoint": metadata.endpoint})
    with Refusing("AccessDenied") as aws:
        counted = fleet(files, library, aws.endpoint)
        assert [counted.count(), counted.count()] == [1, 1]
        assert aws.asked == 1


def test_a_metadata_service_without_instances_is_no_trouble(
    files: Places, library: Library, metadata: Metadata
) -> None:
    """Such as one outside EC2, which only hands out credentials."""
    metadata.set(GROUP, None)
    metadata.set("meta-data/instance-id", None)
    bake(files)
    launch(files, {"imds_endpoint": metadata.endpoint})
    assert fleet(files, library).count() == 1


@pytest.mark.aws
def test_the_group_is_counted_where_there_is_one(files: Places, library: Library, cloud: Cloud) -> None:
    cloud.make_group(3)
    bake(files)
    launch(files, {"imds_endpoint": cloud.metadata.endpoint})
    counted = fleet(files, library)
    assert counted.count() == 3
    cloud.resize(5)
    assert counted.count() == 5


@pytest.mark.aws
def test_a_group_that_the_metadata_forgets_is_still_counted(
    files: Places, library: Library, cloud: Cloud
) -> None:
    """After EC2 has moved the instance to another host, the value is not there until the next transition."""
    cloud.make_group(3)
    cloud.metadata.set(GROUP, None)
    bake(files)
    launch(files, {"imds_endpoint": cloud.metadata.endpoint})
    counted = fleet(files, library)
    assert counted.count() == 3
    cloud.resize(4)
    assert counted.count() == 4


def test_a_group_that_may_not_be_counted_is_trouble(
    files: Places, library: Library, metadata: Metadata
) -> None:
    bake(files)
    launch(files, {"imds_endpoint": metadata.endpoint})
    with Refusing("AccessDenied") as aws, pytest.raises(Trouble, match="describe_auto_scaling") as caught:
        fleet(files, library, aws.endpoint).count()
    assert caught.value.code == "quota-unknown"
    assert caught.value.hint is not None
    assert "autoscaling:DescribeAutoScalingInstances" in caught.value.hint


def test_silence_of_the_metadata_service_does_not_mean_to_be_alone(
    files: Places, library: Library, metadata: Metadata
) -> None:
    metadata.fail(status=0)
    bake(files)
    launch(files, {"imds_endpoint": metadata.endpoint})
    with pytest.raises(Trouble) as caught:
        fleet(files, library).count()
    assert caught.value.code == "imds-unreachable"


def test_who_asks_for_a_group_gets_it_counted_or_is_told(
    files: Places, library: Library, metadata: Metadata
) -> None:
    metadata.set(GROUP, None)
    bake(files, fleet_size="auto_scaling")
    launch(files, {"imds_endpoint": metadata.endpoint})
    with Refusing("AccessDenied") as aws, pytest.raises(Trouble) as caught:
        fleet(files, library, aws.endpoint).count()
    assert caught.value.code == "quota-unknown"


@pytest.mark.aws
def test_the_group_is_looked_for_where_the_instance_is_and_not_where_ses_is(
    library: Library, cloud: Cloud
) -> None:
    cloud.make_group(2)
    assert Aws(library, Imds(cloud.metadata.endpoint), lambda: "eu-west-1").group_size() == 2


@pytest.mark.aws
def test_amazon_ses_is_asked_for_the_rate(library: Library, cloud: Cloud) -> None:
    aws = Aws(library, Imds(cloud.metadata.endpoint), lambda: "us-east-1")
    assert aws.send_rate() == 1.0  # moto's account is in the sandbox


# -- all of it, as the agent starts it


@pytest.fixture
def published(
    files: Places, library: Library, fake_tool: FakeTools, monkeypatch: pytest.MonkeyPatch
) -> Iterator[queue.Queue[dict[str, Any]]]:
    """Start the rate on an image and what it finds beside it; give what it puts up in `status.json`."""
    fake_tool("postconf", "echo 100")
    monkeypatch.setattr(rate, "_ROUND_SECONDS", 0.05)
    threads: list[rate.RateThread] = []

    class Remembered(rate.RateThread):
        def start(self) -> None:
            threads.append(self)
            super().start()

    monkeypatch.setattr(rate, "RateThread", Remembered)
    shown: queue.Queue[dict[str, Any]] = queue.Queue()
    bake(files)
    rate.start(files, library, Postfix(files), Log(io.StringIO()), shown.put, port=0)
    yield shown
    for thread in threads:
        thread.stop()


def wait_for(published: queue.Queue[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    """Wait until so much is put up."""
    while True:
        shown = published.get(timeout=10)
        if all(shown[name] == value for name, value in wanted.items()):
            return shown


@pytest.mark.aws
def test_a_launch_that_names_the_relays_divides_the_rate(
    files: Places, published: queue.Queue[dict[str, Any]]
) -> None:
    launch(files, {"fleet_size": 4})
    shown = wait_for(published, relays=4)
    assert shown["own_per_second"] == pytest.approx(ACCOUNT * HEADROOM / 4)
    assert shown["reason"] is None
    launch(files, {"fleet_size": 8})
    shown = wait_for(published, relays=8)
    assert shown["in_force_per_second"] == pytest.approx(ACCOUNT * HEADROOM / 8)


@pytest.mark.aws
def test_a_launch_in_a_group_divides_the_rate_by_its_members(
    files: Places, cloud: Cloud, published: queue.Queue[dict[str, Any]]
) -> None:
    cloud.make_group(5)
    launch(files, {"imds_endpoint": cloud.metadata.endpoint})
    shown = wait_for(published, relays=5, reason=None)
    assert shown["own_per_second"] == pytest.approx(ACCOUNT * HEADROOM / 5)
