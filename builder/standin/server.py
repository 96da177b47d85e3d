"""What stand-ins that speak HTTP share: a server in a thread, on an address of this machine."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from http.server import HTTPServer
from typing import ClassVar, Self

from builder.errors import BuilderError

_POLL_SECONDS = 0.05
_STOP_SECONDS = 10


class LocalServer(ABC):
    """Listens between `start` and `stop`, or for a `with` block; port 0 takes a free one."""

    title: ClassVar[str]
    """Its name in errors, with its article left out."""

    def __init__(self, *, address: str = "127.0.0.1", port: int = 0) -> None:
        self._wanted = (address, port)
        self._server: HTTPServer | None = None
        self._thread: threading.Thread | None = None

    @abstractmethod
    def _listen(self, address: str, port: int) -> HTTPServer:
        """Open the port."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start to listen. Errors: BuilderError when the port is taken."""
        address, port = self._wanted
        try:
            self._server = self._listen(address, port)
        except (OSError, SystemExit) as error:  # werkzeug exits when a port is taken
            reason = f": {error}" if isinstance(error, OSError) else ""
            raise BuilderError(
                f"The {self.title} cannot listen on {address} port {port}{reason}",
                hint="Give it another port, or 0 for a free one",
            ) from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_SECONDS,), name=self.title, daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop to listen; what was recorded can still be read. Does nothing when it does not listen."""
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._thread.join(_STOP_SECONDS)
        self._server.server_close()
        self._server = self._thread = None

    @property
    def is_running(self) -> bool:
        """Whether it listens."""
        return self._server is not None

    @property
    def port(self) -> int:
        """The port it listens on. Errors: BuilderError when it does not."""
        if self._server is None:
            raise BuilderError(f"The {self.title} is not running", hint="Use it in a `with` block")
        return int(self._server.server_address[1])

    @property
    def endpoint(self) -> str:
        """The address for clients on this machine."""
        return f"http://{self._wanted[0]}:{self.port}"
