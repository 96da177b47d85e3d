"""What builder renders for the agent is what the agent reads: every preset, region and thing to ask for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from relay_agent import dkim, submission
from relay_agent import settings as config
from relay_agent.places import Places

from builder.config import RelayConfig
from builder.presets import load_preset, preset_names
from builder.releases import get_release
from builder.render import render
from tests.agent.relay_world import make_places
from tests.rendered import EVERYTHING, NEEDS, WITH_OAUTH

_AGENT_JSON = "root/etc/relay/agent.json"


def _configurations() -> Iterator[Any]:
    for name in preset_names():
        preset = load_preset(name)
        asked = {"preset": name, **NEEDS.get(name, {})}
        for region in preset.hosts.value if preset.has_regions else ():
            yield pytest.param({**asked, "region": region}, id=f"{name}-{region}")
        if not preset.has_regions:
            yield pytest.param(asked, id=name)
    yield pytest.param(WITH_OAUTH, id="everything")


@pytest.mark.parametrize("asked", list(_configurations()))
def test_the_agent_takes_what_is_rendered(asked: Mapping[str, Any], tmp_path: Path) -> None:
    wanted = RelayConfig.model_validate(asked)
    places = _places(tmp_path, render(wanted, get_release("debian-12"))[_AGENT_JSON])
    settings = config.load(places)
    config.require_secrets(settings)
    chosen = [choice for _name, choice in wanted.upstreams()]
    accounts = dict.fromkeys((choice.upstream_host, choice.secret_name) for choice in chosen)
    assert [(each.host, each.secret) for each in settings.upstreams] == list(accounts)
    assert len({each.key for each in settings.upstreams}) == len(accounts)
    assert settings.upstreams[0].region == wanted.region


def test_all_that_can_be_asked_for_is_known_to_some_part_of_it(tmp_path: Path) -> None:
    text = render(RelayConfig.model_validate(EVERYTHING), get_release("debian-13"))[_AGENT_JSON]
    places = _places(tmp_path, text)
    plan, signing = submission.read_plan(places), dkim.read_plan(places)
    assert plan is not None
    assert plan.port == 587
    assert signing is not None
    assert [key.domain for key in signing.keys] == ["ours.example"]
    assert {"submission", "dkim", "quota"} <= set(json.loads(text))


def _places(folder: Path, text: str) -> Places:
    places = make_places(folder)
    places.agent_json.parent.mkdir(parents=True, exist_ok=True)
    places.agent_json.write_text(text)
    return places
