"""All of it on this machine in one go: bake, boot, fetch a secret, relay a mail, show it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder import base, base_build, base_store, console, packer, workspace
from builder.bake import IMAGE, BakeRequest, bake
from builder.config import RelayConfig, load_config
from builder.errors import BuilderError
from builder.launch import announce, choose_accelerator, launch_qemu
from builder.record import ImageRecord
from builder.standin.journal import Message
from builder.verify.relay import Relay
from builder.verify.world import boot_user_data, make_stand_ins, sample_logins

# What is built where Canonical's image cannot be downloaded.
FALLBACK = "debian-12"


@dataclass(frozen=True)
class Demonstration:
    """What the demo showed; times in seconds."""

    image: str
    folder: Path
    base: str
    seconds_to_ready: float
    sender: str
    recipient: str
    subject: str
    user: str
    tls: str

    def fields(self) -> Mapping[str, str]:
        """Return the result as lines for a person."""
        return {
            "delivered": f"`{self.subject}` from <{self.sender}> to <{self.recipient}>",
            "over": f"{self.tls}, certificate verified, logged in as {self.user}",
            "power-on to ready": console.format_seconds(self.seconds_to_ready),
            "image": f"{self.folder / IMAGE} (from {self.base})",
        }

    def to_json(self) -> dict[str, Any]:
        """Return the result as data."""
        return {**vars(self), "folder": str(self.folder)}


def demo(*, images_dir: Path, preset: str = "ses", accelerator: str | None = None) -> Demonstration:
    """Bake an image with a preset, boot it against stand-ins on this machine, and relay one message.

    Errors: BuilderError when a step fails; an image that was finished before stays.
    """
    config = load_config(None, {"preset": preset, "region": "us-east-1"})
    name = _obtain_base(images_dir)
    folder, record = bake(
        BakeRequest(config=config, base=name, images_dir=images_dir, accelerator=accelerator)
    )
    return _show(config, folder, record, accelerator)


def _obtain_base(images_dir: Path) -> str:
    """Return the base to start from: Canonical's where it can be had, else one built from packages.

    What a bake needs besides is looked for before minutes go into a base.
    """
    there = {name: base_store.find(name, base.ARCH) for name in (base.DEFAULT, FALLBACK)}
    if there[base.DEFAULT] is None and there[FALLBACK] is not None:
        console.say(f"Base: `{FALLBACK}`, built here before")
        return FALLBACK
    if there[base.DEFAULT] is None:
        workspace.require_writable(images_dir)
        packer.find()
        packer.require_tools("qemu")
    try:
        base.resolve(base.DEFAULT)
    except BuilderError as error:
        if os.geteuid() != 0 or shutil.which("mmdebstrap") is None:
            raise
        console.say(f"{error.message}. Building `{FALLBACK}` from this machine's package mirror instead")
        base_build.ensure(FALLBACK)
        return FALLBACK
    return base.DEFAULT


def _show(config: RelayConfig, folder: Path, record: ImageRecord, accelerator: str | None) -> Demonstration:
    logins = sample_logins(config)
    chosen = choose_accelerator(accelerator)
    stand_ins = make_stand_ins(config, logins)
    with stand_ins, console.step(f"Boot `{record.name}` ({announce(chosen)})") as step:
        user_data = boot_user_data(config, stand_ins)
        with launch_qemu(folder / IMAGE, user_data=user_data, accelerator=chosen) as guest:
            step.note("waiting for the agent: it fetches the credential, proves it, opens port 25")
            seconds = guest.wait_ready()
            step.note("sending one message to port 25")
            relay = Relay(guest, stand_ins, config, logins)
            message = relay.wait_delivered(relay.send())[0]
    return _describe(folder, record, seconds, message)


def _describe(folder: Path, record: ImageRecord, seconds: float, message: Message) -> Demonstration:
    return Demonstration(
        image=record.name,
        folder=folder,
        base=record.base.name,
        seconds_to_ready=round(seconds, 1),
        sender=message.sender,
        recipient=message.recipients[0],
        subject=message.subject,
        user=message.user or "nobody",
        tls=message.tls_version or "no TLS",
    )
