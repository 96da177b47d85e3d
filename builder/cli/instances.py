"""`builder instances`: the relays that `builder launch` started on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from builder import console
from builder.cli.options import images_path, instances_folder, json_option
from builder.cli.verbs import Group, Verb
from builder.errors import BuilderError

if TYPE_CHECKING:
    from builder.launch.instances import Instance


def _complete_instance(_ctx: click.Context, _param: click.Parameter, begun: str) -> list[str]:
    from builder.workspace import INSTANCES

    found = sorted(path.stem for path in (images_path() / INSTANCES).glob("i-*.json"))
    return [name for name in found if name.startswith(begun)]


@click.group(cls=Group, example="builder instances list\nbuilder instances stop i-0a1b2c3d")
def command() -> None:
    """List, stop, start and delete the relays that `builder launch` started here."""


@command.command("list", cls=Verb, example="builder instances list")
@json_option
def list_(as_json: bool) -> None:
    """List the relays that were launched on this machine."""
    from builder.launch.instances import list_instances

    found = list_instances(instances_folder())
    if as_json:
        console.out_json([describe(instance) for instance in found])
        return
    if not found:
        console.say("No relay was launched here; start one with `builder launch IMAGE`")
        return
    rows = [[str(value) for value in describe(instance).values()] for instance in found]
    console.out_table([name.upper() for name in describe(found[0])], rows)


@command.command(cls=Verb, example="builder instances stop i-0a1b2c3d")
@click.argument("identity", metavar="ID", shell_complete=_complete_instance)
def stop(identity: str) -> None:
    """Shut a relay down in order; its disk, with the queue on it, stays."""
    from builder.launch.instances import find_instance, stop_instance

    instance = find_instance(instances_folder(), identity)
    with console.step(f"Shut {instance.id} down"):
        stop_instance(instance)
    console.say(f"{instance.id} is stopped; start it again with `builder instances start {instance.id}`")


@command.command(cls=Verb, example="builder instances start i-0a1b2c3d")
@click.argument("identity", metavar="ID", shell_complete=_complete_instance)
@json_option
def start(identity: str, as_json: bool) -> None:
    """Start a stopped relay again, with the mail that is in its queue."""
    from builder.launch.instances import find_instance, start_instance

    instance = start_instance(find_instance(instances_folder(), identity))
    report(instance, as_json)
    wait_ready(instance)


@command.command(cls=Verb, example="builder instances delete i-0a1b2c3d")
@click.argument("identity", metavar="ID", shell_complete=_complete_instance)
def delete(identity: str) -> None:
    """Stop a relay and delete its disk, with the mail that is still in its queue."""
    from builder.launch.instances import find_instance, stop_instance

    instance = find_instance(instances_folder(), identity)
    with console.step(f"Shut {instance.id} down"):
        stop_instance(instance, delete=True)
    console.say(f"{instance.id} is deleted")


def wait_ready(instance: Instance, *, seconds: float = 300) -> None:
    """Wait until a relay takes mail; one that does not goes on running, and that is said."""
    from builder.launch.instances import wait_instance_ready

    try:
        with console.step(f"Wait until {instance.id} is ready"):
            wait_instance_ready(instance, timeout_seconds=seconds)
    except (BuilderError, KeyboardInterrupt):
        if instance.status == "running":
            console.say(
                f"{instance.id} goes on running; delete it with `builder instances delete {instance.id}`"
            )
        raise


def describe(instance: Instance) -> dict[str, Any]:
    """Return what a user needs to know of an instance, as JSON-ready data."""
    return {
        "id": instance.id,
        "status": instance.status,
        "smtp": ":".join(map(str, instance.smtp_address)),
        "health": f"http://{':'.join(map(str, instance.health_address))}/readyz",
        "image": instance.image,
        "console": str(instance.serial_log),
        "started": instance.started[:19],
    }


def report(instance: Instance, as_json: bool) -> None:
    """Print where a running instance listens, and how to stop it."""
    if as_json:
        console.out_json(describe(instance))
        return
    console.out_fields({**describe(instance), "stop": f"builder instances stop {instance.id}"})
