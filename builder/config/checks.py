"""What must fit together in `relay.yaml` beyond the form of each value."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from builder.config import main_cf
from builder.config.checks_clients import check_clients
from builder.config.checks_rules import check_rules
from builder.config.checks_senders import check_null_sender, check_replaced
from builder.config.problem import Problem, Where
from builder.config.routing import ProviderChoice, arn_region, is_aws_region
from builder.config.wording import key_name
from builder.presets import Preset, Sourced, preset_names

if TYPE_CHECKING:
    from builder.config.model import RelayConfig


def check(config: RelayConfig) -> Iterator[Problem]:
    """Give every mistake that is not in one value alone."""
    for where, choice in _choices(config):
        yield from _provider(where, choice)
    yield from check_clients(config)
    yield from check_rules(config)
    yield from check_replaced(config)
    yield from _names(config)
    yield from _main_cf(config)
    yield from _routing(config)
    yield from _warm_up(config)
    yield from _dkim(config)
    if all(choice.preset in preset_names() for _where, choice in _choices(config)):
        yield from _limits(config)
        yield from _quota(config)
        yield from _ses_headers(config)
        yield from check_null_sender(config)
        yield from _another_host(config)
        yield from _one_way_to_log_in(config)
        yield from _one_way_to_begin_tls(config)


def either(values: Sequence[Any], *, word: str = "or") -> str:
    """Join values as in a sentence: `25, 587 or 2587`."""
    texts = [str(value) for value in values]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} {word} {texts[-1]}"


def _choices(config: RelayConfig) -> Iterator[tuple[Where, ProviderChoice]]:
    yield (), config
    if config.fallback:
        yield ("fallback",), config.fallback
    if config.warm_up:
        yield ("warm_up",), config.warm_up
    for index, route in enumerate(config.routes):
        yield ("routes", index), route


def _provider(where: Where, choice: ProviderChoice) -> Iterator[Problem]:
    if choice.preset not in preset_names():
        known = f"Known presets: {', '.join(preset_names())}"
        near = difflib.get_close_matches(choice.preset.lower(), preset_names(), n=1)
        hint = f"Did you mean `{near[0]}`? {known}" if near else known
        yield Problem((*where, "preset"), f"is `{choice.preset[:60]}`, which is not a preset", hint)
        return
    preset = choice.provider
    yield from _region(where, choice.region, preset)
    yield from _upstream(where, choice, preset)
    kinds = sorted({shape.mechanism for shape in preset.secret_shapes})
    if choice.auth and choice.auth not in kinds:
        yield Problem(
            (*where, "auth"),
            f"is `{choice.auth}`, but preset `{preset.name}` logs in with {either(kinds)}",
            "Remove the line",
        )


def _region(where: Where, region: str | None, preset: Preset) -> Iterator[Problem]:
    known = list(preset.hosts.value)
    key = (*where, "region")
    if not preset.has_regions:
        if region is not None and not is_aws_region(region):
            text = f"is `{region[:60]}`, but {preset.title} has no regions"
            yield Problem(key, text, "Remove the line; for the region of Secrets Manager use `secret_region`")
    elif region is None:
        hint = f"Set it to one of {either(known)}"
        yield Problem(key, f"is missing; the host of {preset.title} depends on it", hint)
    elif region not in known:
        near = difflib.get_close_matches(region, known, n=1)
        hint = f"Did you mean `{near[0]}`?" if near else f"Known regions: {', '.join(known)}"
        yield Problem(key, f"is `{region[:60]}`, where {preset.title} has no SMTP endpoint", hint)


def _upstream(where: Where, choice: ProviderChoice, preset: Preset) -> Iterator[Problem]:
    upstream = choice.upstream
    port, host = (*where, "upstream", "port"), (*where, "upstream", "host")
    ports = [known.port for tls in ("starttls", "implicit") for known in _ports_with(preset, tls)]
    if upstream.port and upstream.port not in ports and not preset.host_is_yours:
        text = f"is {upstream.port}, but preset `{preset.name}` accepts {either(ports)}"
        yield Problem(port, text, f"Remove the line to use the preset's {preset.default_port}")
    if preset.host_is_yours and not upstream.host:
        text = "is missing; preset `custom` has no host of its own"
        yield Problem(host, text, "Set it to your provider's SMTP host name")
    elif upstream.host and not preset.accepts_host(upstream.host):
        others = [f"names such as `{other.example}`" for other in preset.other_hosts]
        accepted = either(["its own host", *others], word="and")
        text = f"is `{upstream.host}`, but preset `{preset.name}` accepts {accepted}"
        yield Problem(host, text, "Remove the line, or use preset `custom`")
    elif upstream.host and choice.region and preset.has_regions:
        others = [region for region in preset.hosts.value if f".{region}." in upstream.host]
        if others and choice.region not in others:
            text = f"is in `{others[0]}`, but `region` is `{choice.region}`; the password is derived for that"
            yield Problem(host, text, f"Set `region: {others[0]}` or use a host of that region")
    if upstream.tls and not preset.host_is_yours:
        text = f"is set, but preset `{preset.name}` knows how TLS begins on each port"
        yield Problem((*where, "upstream", "tls"), text, "Remove the line")


def _ports_with(preset: Preset, tls: str) -> list[Any]:
    return sorted((known for known in preset.ports if known.tls == tls), key=lambda known: known.port)


def _limits(config: RelayConfig) -> Iterator[Problem]:
    ours, every = config.delivery, [choice for _where, choice in _choices(config)]
    # The fallback shares the provider's transport; routes and the warm-up have their own pace, and the number
    # of recipients in common.
    together = [config, *([config.fallback] if config.fallback else [])]
    for value, name, where, choices in (
        (config.message_bytes, "message_bytes", ("message_bytes",), every),
        (ours.concurrency, "connections", ("delivery", "concurrency"), together),
        (
            ours.messages_per_connection,
            "messages_per_connection",
            ("delivery", "messages_per_connection"),
            together,
        ),
        (
            ours.recipients_per_delivery,
            "recipients_per_message",
            ("delivery", "recipients_per_delivery"),
            every,
        ),
    ):
        limits = [(getattr(choice.provider.limits, name), choice.provider) for choice in choices]
        known = sorted((pair for pair in limits if pair[0]), key=lambda pair: pair[0].value)
        problems = (item for limit, preset in known for item in _above(value, limit, where, preset))
        yield from islice(problems, 1)
    concurrency = ours.concurrency or config.provider.delivery.concurrency
    if ours.initial_concurrency and ours.initial_concurrency > concurrency:
        text = f"is {ours.initial_concurrency}, more than the concurrency of {concurrency}"
        yield Problem(("delivery", "initial_concurrency"), text, "Use a smaller number or remove the line")


def _above(
    value: float | None, limit: Sourced[Any] | None, where: Where, preset: Preset
) -> Iterator[Problem]:
    """Refuse what is above a limit that the provider publishes; one that is advice may be exceeded."""
    if value is None or limit is None or limit.unofficial or limit.advice or value <= limit.value:
        return
    text = f"is {value:g}, but {preset.title} takes {limit.value:g} at most"
    if isinstance(value, int):
        text = f"is {value}, but {preset.title} takes {limit.value} at most"
    yield Problem(where, text, f"`builder presets {preset.name} --sources` shows where that is from")


def _main_cf(config: RelayConfig) -> Iterator[Problem]:
    for name, value in config.main_cf.items():
        refused = main_cf.problem(name, value, has_quota=config.quota is not None)
        if refused:
            yield Problem(("main_cf", name), *refused)


def _quota(config: RelayConfig) -> Iterator[Problem]:
    quota, limits = config.quota, config.provider.limits
    if quota is None:
        return
    if quota.share == "node" and quota.fleet_size is not None:
        text = "is set, but `share: node` divides by nothing"
        yield Problem(("quota", "fleet_size"), text, "Remove it, or use `share: fleet`")
    source, rate = quota.rate_source, quota.messages_per_second
    if source == "ses_get_send_quota" and config.preset != "ses":
        text = f"is `ses_get_send_quota`, but the preset is `{config.preset}`"
        yield Problem(("quota", "source"), text, "Use `config` with `messages_per_second`")
    if source == "preset" and limits.messages_per_second is None:
        text = f"is missing; {config.provider.title} publishes no rate"
        other = ", or `source: ses_get_send_quota`" if config.preset == "ses" else ""
        yield Problem(("quota", "messages_per_second"), text, f"Set it to your account's rate{other}")
    if source == "config" and rate is None:
        yield Problem(
            ("quota", "messages_per_second"), "is missing for `source: config`", "Set your account's rate"
        )
    if source != "config" and rate is not None:
        text = f"is set, but the rate comes from `{source}`"
        yield Problem(("quota", "messages_per_second"), text, "Remove it, or use `source: config`")
    yield from _above(rate, limits.messages_per_second, ("quota", "messages_per_second"), config.provider)


def _routing(config: RelayConfig) -> Iterator[Problem]:
    names: set[str] = set()
    taken: dict[tuple[str, str], str] = {}
    for index, route in enumerate(config.routes):
        if route.name in names:
            yield Problem(
                ("routes", index, "name"), f"is `{route.name}`, as an earlier route", "Use another name"
            )
        names.add(route.name)
        if bool(route.sender_domains) == bool(route.recipient_domains):
            text = "needs either `sender_domains` or `recipient_domains`"
            yield Problem(("routes", index), text, "Make two routes where both are meant")
        for side in ("sender_domains", "recipient_domains"):
            for position, domain in enumerate(getattr(route, side)):
                if (side, domain) in taken:
                    text = f"is `{domain}`, which route `{taken[side, domain]}` has already"
                    yield Problem(("routes", index, side, position), text, "Remove one of them")
                taken.setdefault((side, domain), route.name)


def _names(config: RelayConfig) -> Iterator[Problem]:
    if config.secret_region is not None and not is_aws_region(config.secret_region):
        text = f"is `{config.secret_region[:60]}`, expected an AWS region such as `us-east-1`"
        yield Problem(("secret_region",), text)
    yield from _contradicted_region(config)
    known = config.preset in preset_names()
    hosts = config.provider.hosts.value.values() if known else ()
    if config.hostname in (config.upstream.host, *(host.format(region=config.region) for host in hosts)):
        text = f"is `{config.hostname}`, the name of the provider; Postfix would take it for itself"
        yield Problem(("hostname",), text, "Use a name of your own, such as `relay.example.com`")
    for where, choice in _choices(config):
        if where and _has_host(choice) and config.hostname == choice.upstream_host:
            text = f"is `{config.hostname}`, the name of the provider of `{key_name(where)}`"
            hint = "Use a name of your own, such as `relay.example.com`"
            yield Problem(("hostname",), f"{text}; Postfix would take it for itself", hint)
    if config.submission and config.submission.secret in [
        choice.secret_name for _where, choice in _choices(config)
    ]:
        text = "is the provider's own secret; users must not be able to log in with it"
        yield Problem(("submission", "secret"), text, "Make a secret of its own for the users")


def _contradicted_region(config: RelayConfig) -> Iterator[Problem]:
    """Refuse a region in which a secret is not by its own ARN."""
    choices, keys = _choices(config), config.dkim.keys if config.dkim else ()
    secrets: list[tuple[Where, str | None]] = [
        ((*where, "secret"), choice.secret) for where, choice in choices
    ]
    if config.submission:
        secrets.append((("submission", "secret"), config.submission.secret))
    secrets += [(("dkim", "keys", index, "secret"), key.secret) for index, key in enumerate(keys)]
    said = config.secret_region
    for where, secret in secrets:
        region = arn_region(secret)
        if said and region and region != said:
            text = f"is `{said[:60]}`, but `{key_name(where)}` is in `{region}`, as its ARN says"
            yield Problem(
                ("secret_region",), text, f"Remove the line; give secrets in `{said[:60]}` by their ARNs"
            )


def _warm_up(config: RelayConfig) -> Iterator[Problem]:
    plan = config.warm_up
    if plan is None:
        return
    if (plan.percent is None) == (not plan.steps):
        yield Problem(("warm_up",), "needs either `percent` or `steps`", "Keep one of them")
    dates = [step.date for step in plan.steps]
    for index, day in enumerate(dates[1:], start=1):
        if day <= dates[index - 1]:
            text = f"is {day}, not after the step before it ({dates[index - 1]})"
            yield Problem(
                ("warm_up", "steps", index, "date"), text, "Put the steps in the order of their days"
            )


def _dkim(config: RelayConfig) -> Iterator[Problem]:
    if config.dkim is None:
        return
    taken = {choice.secret_name: "the provider's" for _where, choice in _choices(config)}
    if config.submission:
        taken[config.submission.secret] = "the submission port's"
    for index, key in enumerate(config.dkim.keys):
        where: Where = ("dkim", "keys", index)
        if key.domain in [other.domain for other in config.dkim.keys[:index]]:
            text = f"is `{key.domain}`, which an earlier key signs"
            yield Problem((*where, "domain"), text, "Remove one of them")
        if key.secret in taken:
            text = f"is {taken[key.secret]} own secret; a key for signatures is for nothing else"
            yield Problem((*where, "secret"), text, "Make a secret of its own for the key")


def _ses_headers(config: RelayConfig) -> Iterator[Problem]:
    hygiene = config.hygiene
    if all(choice.preset != "ses" for _where, choice in _choices(config)):
        for key in ("configuration_set", "tags"):
            if getattr(hygiene, key):
                yield Problem(("hygiene", key), "is for SES alone", "Use `hygiene.set_headers`")
    own = (
        {"x-ses-configuration-set", "x-ses-message-tags"}
        if hygiene.configuration_set or hygiene.tags
        else set()
    )
    for name in hygiene.set_headers:
        if name.lower() in own:
            text = "is set twice"
            yield Problem(
                ("hygiene", "set_headers", name), text, "Use `hygiene.configuration_set` and `hygiene.tags`"
            )


def _another_host(config: RelayConfig) -> Iterator[Problem]:
    """Refuse a fallback to the host that has failed."""
    fallback = config.fallback
    if fallback is None or not (_has_host(config) and _has_host(fallback)):
        return
    if fallback.upstream_host == config.upstream_host:
        text = f"is `{fallback.upstream_host}` again, which fails when the first does"
        yield Problem(("fallback",), text, "Use another region or provider")


def _has_host(choice: ProviderChoice) -> bool:
    """Whether it is known which host is meant; what is wrong otherwise is said in its own place."""
    if choice.preset not in preset_names():
        return False
    provider = choice.provider
    if provider.host_is_yours:
        return bool(choice.upstream.host)
    return not provider.has_regions or choice.region in provider.hosts.value


def _one_way_to_begin_tls(config: RelayConfig) -> Iterator[Problem]:
    """Refuse a fallback that begins TLS otherwise: one delivery agent, with one setting, serves both."""
    fallback = config.fallback
    if fallback is None or not all(_has_port(choice) for choice in (config, fallback)):
        return
    names = {"starttls": "STARTTLS", "implicit": "implicit TLS"}
    begins, wanted = fallback.upstream_tls, config.upstream_tls
    if begins == wanted:
        return
    text = (
        f"is {fallback.upstream_port}, which begins TLS with {names[begins]}, but port "
        f"{config.upstream_port} of the provider with {names[wanted]}; one delivery attempt serves both"
    )
    ports = [known.port for known in _ports_with(fallback.provider, wanted)]
    own = [known.port for known in _ports_with(config.provider, begins)]
    hint = f"Set it to {either(ports)}" if ports else f"Set `upstream.port` to {either(own)}"
    yield Problem(("fallback", "upstream", "port"), text, hint)


def _has_port(choice: ProviderChoice) -> bool:
    ports = [known.port for known in choice.provider.ports]
    return choice.provider.host_is_yours or choice.upstream_port in ports


def _one_way_to_log_in(config: RelayConfig) -> Iterator[Problem]:
    """Refuse a fallback that Postfix could not tell from the provider: one list of mechanisms serves both.

    XOAUTH2 is chosen wherever a server offers it, so a provider that gets a password must not offer it.
    """
    fallback = config.fallback
    if fallback is None or fallback.auth_kind == config.auth_kind:
        return
    choice, where = (config, "auth") if config.auth_kind == "password" else (fallback, "fallback.auth")
    if "xoauth2" in choice.provider.mechanism_names:
        text = f"logs in to {choice.provider.title} with a password, and the other provider with OAuth; "
        yield Problem(
            ("fallback",),
            f"{text}{choice.provider.title} offers both, and Postfix would send the password as a token",
            f"Set `{where}: xoauth2`, or use another provider",
        )
