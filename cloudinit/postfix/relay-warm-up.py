#!/usr/bin/python3
"""Give a provider that warms up its part of the mail: the step of /etc/relay/warm-up.json for today.

Run once a day by relay-warm-up.timer, on Python 3.8 and newer. The options are for tests.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path


def value_on(plan, day):
    """Return the parameter's value on a day: of the last step that was reached, or the one before all."""
    reached = [step for step in plan["steps"] if step["date"] <= day]
    return max(reached, key=lambda step: step["date"])["value"] if reached else plan["before"]


def main(arguments):
    """Set the parameter when it is not what it has to be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plan", default="/etc/relay/warm-up.json")
    parser.add_argument("--today", default=time.strftime("%Y-%m-%d", time.gmtime()))
    options = parser.parse_args(arguments)
    plan = json.loads(Path(options.plan).read_text(encoding="utf-8"))
    name, wanted = plan["parameter"], value_on(plan, options.today)
    asked = subprocess.run(["postconf", "-h", name], stdout=subprocess.PIPE, check=True, encoding="utf-8")
    if asked.stdout.strip() == wanted:
        return
    subprocess.run(["postconf", "-e", f"{name}={wanted}"], check=True)
    # No pipe: `postfix reload` leaves a queue check behind that would keep it open.
    quiet = subprocess.DEVNULL
    subprocess.run(["postfix", "reload"], check=True, stdout=quiet, stderr=quiet)
    sys.stdout.write(f"warm-up: {name} is now {wanted}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
