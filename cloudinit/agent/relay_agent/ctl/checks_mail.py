"""Steps of `relayctl doctor` about mail: what waits, and what the log of the last hour says."""

from __future__ import annotations

import time
from collections import Counter
from typing import Iterator

from relay_agent import mailqueue
from relay_agent.ctl.context import Context, span
from relay_agent.ctl.findings import MENDS, Finding, ok, warning, wrong
from relay_agent.maillog import Delivery, Problem, Rejected, without_addresses

# Mail that waits longer is not merely on its way.
_LONG_SECONDS = 900.0


def queue(context: Context) -> Iterator[Finding]:
    """Look at what waits, and for what."""
    summary = mailqueue.summarize(mailqueue.read(context.postfix))
    if summary.total == 0:
        yield ok("queue", "it is empty; that alone does not say that mail arrived, see the log below")
        return
    ages = summary.ages(time.time())
    oldest = max(ages.values())
    counts = ", ".join(f"{count} {name}" for name, count in summary.messages.items() if count)
    text = f"{counts}, oldest {span(oldest)}"
    if oldest > _LONG_SECONDS:
        yield warning("queue", text, "`relayctl queue` lists them; never delete all of them")
    else:
        yield ok("queue", text)
    for reason, count in summary.reasons.most_common():
        yield warning("queue", f"{count} recipients wait: {reason}", MENDS.get(reason, "`relayctl queue`"))
    if summary.messages["hold"]:
        yield warning("queue", f"{summary.messages['hold']} on hold", "`relayctl queue release ID`")


def log(context: Context) -> Iterator[Finding]:
    """Look at what became of the mail of the last hour."""
    events = context.recent_events()
    results: Counter[tuple[str, str]] = Counter()
    texts: dict[tuple[str, str], str] = {}
    for event in events:
        if isinstance(event, Delivery):
            key = (event.status, event.reason)
            results[key] += 1
            texts[key] = without_addresses(event.text)
    sent = sum(count for (status, _), count in results.items() if status == "sent")
    yield ok("log", f"{sent} deliveries to the provider in the last hour")
    for (status, reason), count in results.most_common():
        if status == "bounced":
            # A bounce has left the queue: only the log shows that it did not arrive.
            yield wrong(
                "log", f"{count} bounced ({reason}), the last: {texts[(status, reason)]}", MENDS.get(reason)
            )
        elif status != "sent":
            yield warning("log", f"{count} {status} ({reason}): {texts[(status, reason)]}", MENDS.get(reason))
    refused = Counter(event.code for event in events if isinstance(event, Rejected))
    if refused:
        codes = ", ".join(f"{count} with {code}" for code, count in sorted(refused.items()))
        mend = "`journalctl SYSLOG_FACILITY=2 -g reject:`; clients must be in `networks`"
        yield warning("clients", f"commands of clients were refused: {codes}", mend)
    grave = [event for event in events if isinstance(event, Problem) and event.severity in ("fatal", "panic")]
    if grave:
        yield wrong(
            "log", f"{len(grave)} fatal errors of Postfix, the last: {grave[-1].text}", "`postfix check`"
        )
