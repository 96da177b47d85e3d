"""Ask the agent in a guest how it is, over HTTP."""

from __future__ import annotations

import http.client

from builder.launch.interface import Address


def ask(address: Address, path: str = "/readyz", *, timeout_seconds: float = 5) -> tuple[int, str]:
    """Return status and text of one GET; status 0 and the reason when there is no answer."""
    connection = http.client.HTTPConnection(*address, timeout=timeout_seconds)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read(65536).decode(errors="replace").strip()
    except (OSError, http.client.HTTPException) as error:
        return 0, f"no answer: {error}"
    finally:
        connection.close()
