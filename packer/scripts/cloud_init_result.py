"""Say whether cloud-init did what it was told: `cloud_init_result.py FILE`.

FILE has what `cloud-init status` printed. Ends with 1 and the reason when cloud-init did not. Runs in the
build VM, on Python 3.8 and newer.
"""

import json
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

_GOOD = ("done", "disabled")
# Deprecations are for us, the builder's developers; they do not make a bad image.
_HARMLESS = ("DEPRECATED", "INFO")


def find_fault(printed: str) -> Optional[str]:
    """Return what was wrong, None when nothing was; `printed` is JSON, before 22.4 the text of `--long`."""
    # While it waits it prints dots.
    text = printed.lstrip(".\n")
    if not text:
        return "cloud-init: it did not end within ten minutes"
    try:
        status = json.loads(text)
    except ValueError:
        state, errors = _read_text(text)
    else:
        state, errors = _read_json(status)
    if state in _GOOD and not errors:
        return None
    return f"cloud-init ended with `{state}`: {'; '.join(errors) or 'no reason given'}"


def _read_json(status: Dict[str, Any]) -> Tuple[str, List[str]]:
    errors = [str(error) for error in status.get("errors") or []]
    # Since 23.4; such a status is `done` and its exit code may be 0.
    for level, messages in (status.get("recoverable_errors") or {}).items():
        if level not in _HARMLESS:
            errors += [f"{level}: {message}" for message in messages]
    return str(status.get("status")), errors


def _read_text(text: str) -> Tuple[str, List[str]]:
    """Read `status: STATE`, other fields, and after `detail:` the errors, or where the data came from."""
    head, _, detail = text.partition("\ndetail:\n")
    state = head.partition("status:")[2].partition("\n")[0].strip()
    errors = detail.split("\n") if state not in _GOOD else []
    return state or text.strip().partition("\n")[0], [line for line in errors if line]


if __name__ == "__main__":
    fault = find_fault(Path(sys.argv[1]).read_text(encoding="utf-8", errors="replace"))
    sys.exit(f"seal: {fault}" if fault else 0)
