"""A scripted SMTP provider on loopback: what the relay sends to in tests, `verify`, `demo` and benchmarks.

    with Provider(users={"AKIAEXAMPLE": "secret"}) as provider:
        provider.port, provider.tls_port        # STARTTLS and implicit TLS, both on provider.address
        provider.ca_pem                         # what a client must trust
        provider.behave(Behaviour(Fault.THROTTLED))                     # until behave(…) or clear()
        with provider.behaving(Behaviour(Fault.SLOW, seconds=2)): ...   # inside the block
        provider.next_sessions(3, Behaviour(Fault.GREETING_421))        # a burst of 421s
        provider.next_messages(1, Behaviour(Fault.NOT_VERIFIED))
        provider.set_password("AKIAEXAMPLE", "new", keep_old=True)      # a rotation
        provider.wait_for(lambda: provider.counts.messages == 2, timeout_seconds=10)
        provider.messages[0].sender, provider.sessions[0].tls_version
        assert provider.leaks == ()             # no credential in the clear or to a wrong certificate

What each behaviour looks like to a client: `builder.standin.behaviour`. What is recorded:
`builder.standin.journal`. Everything may be called from any thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from builder.errors import BuilderError
from builder.standin.behaviour import Behaviour, Certificate, Fault
from builder.standin.certificates import Certificates
from builder.standin.journal import AuthAttempt, Counts, Journal, Message, Refusal, Session
from builder.standin.script import Script, Situation
from builder.standin.scripted import Shared
from builder.standin.smtp import ImplicitTls, ProviderSMTP
from builder.standin.users import Users

T = TypeVar("T")

DEFAULT_HOST = "email-smtp.us-east-1.amazonaws.com"
_BACKLOG = 1024
_STOP_SECONDS = 10
_SES_SIZE_LIMIT = 40 * 1024 * 1024  # Amazon SES developer guide, "Message quotas"


class Provider:
    """One provider with two ports; it runs in a thread of its own between `start` and `stop`.

    `host_names` are the names in the good certificate, the first one is what it calls itself. Without
    `users` it neither offers nor wants AUTH. `requires_tls=False` is a provider that takes AUTH in the clear,
    as SendGrid and Mailgun do. `ca_folder` keeps the certificate authority for the next start.

    For benchmarks, `keep_content=False` and `keep_exchange=False` record numbers only, and `reuse_port`
    lets several processes with the same `ca_folder` share their ports: the kernel spreads connections.
    """

    def __init__(
        self,
        *,
        users: Mapping[str, str] | None = None,
        host_names: Sequence[str] = (DEFAULT_HOST,),
        address: str = "127.0.0.1",
        port: int = 0,
        tls_port: int = 0,
        mechanisms: Sequence[str] = ("PLAIN", "LOGIN"),
        size_limit: int = _SES_SIZE_LIMIT,
        smtputf8: bool = False,
        pipelining: bool = False,
        requires_tls: bool = True,
        idle_seconds: float = 300,
        ca_folder: Path | None = None,
        keep_content: bool = True,
        keep_exchange: bool = True,
        reuse_port: bool = False,
    ) -> None:
        self.address = address
        self._reuse_port = reuse_port
        self._shared = Shared(
            host_names=tuple(host_names),
            mechanisms=tuple(mechanisms),
            size_limit=size_limit,
            smtputf8=smtputf8,
            pipelining=pipelining,
            requires_tls=requires_tls,
            idle_seconds=idle_seconds,
            script=Script(),
            journal=Journal(keep_content=keep_content, keep_exchange=keep_exchange),
            users=Users(users or {}),
            certificates=Certificates(host_names, folder=ca_folder),
        )
        self._wanted_ports = (port, tls_port)
        self._held: list[socket.socket] = []
        self._servers: list[asyncio.Server] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._control = threading.RLock()

    # -- life

    def __enter__(self) -> Provider:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Open both ports. Errors: BuilderError when one cannot be opened."""
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(self._note_loop_error)
        self._thread = threading.Thread(target=self._serve, name="provider stand-in", daemon=True)
        self._thread.start()
        try:
            for port in self._wanted_ports:
                self._held.append(self._hold(port))
            self._in_loop(self._listen())
        except OSError as error:
            self.stop()
            raise BuilderError(
                f"The provider stand-in cannot listen on {self.address}: {error}",
                hint="Give it another address or port, or 0 for a free one",
            ) from error

    def stop(self) -> None:
        """Close both ports and end all sessions; what was recorded can still be read."""
        if self._loop is None or self._thread is None:
            return
        self._in_loop(self._shut_down())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_STOP_SECONDS)
        self._loop.close()
        for held in self._held:
            held.close()
        self._held.clear()
        self._loop = self._thread = None

    @property
    def port(self) -> int:
        """The port for STARTTLS."""
        return self._port(0)

    @property
    def tls_port(self) -> int:
        """The port for implicit TLS."""
        return self._port(1)

    @property
    def host_names(self) -> tuple[str, ...]:
        """The names in the good certificate."""
        return self._shared.host_names

    @property
    def ca_pem(self) -> str:
        """The certificate of the authority that a client must trust, in PEM."""
        return self._shared.certificates.ca_pem

    def server_context(self) -> ssl.SSLContext:
        """Return a context with the good certificate, for another server under the provider's names."""
        return self._shared.certificates.context(Certificate.GOOD)

    # -- the script

    def behave(self, *behaviours: Behaviour) -> None:
        """Replace what is set in general; without arguments only that is cleared."""
        with self._control:
            self._shared.script.set_general(behaviours)
            self._listen_or_refuse()

    @contextlib.contextmanager
    def behaving(self, *behaviours: Behaviour) -> Iterator[None]:
        """Set these behaviours on top of the general ones for the length of the block."""
        before = self.behaviours
        self.behave(*behaviours, *before)
        try:
            yield
        finally:
            self.behave(*before)

    def next_sessions(self, count: int, *behaviours: Behaviour) -> None:
        """Give these behaviours to the next `count` connections, from their first to their last byte."""
        self._shared.script.add_for_sessions(count, behaviours)

    def next_messages(self, count: int, *behaviours: Behaviour) -> None:
        """Give these behaviours to the next `count` messages, counted by their MAIL command."""
        self._shared.script.add_for_messages(count, behaviours)

    def clear(self) -> None:
        """Behave well again."""
        with self._control:
            self._shared.script.clear()
            self._listen_or_refuse()

    @property
    def behaviours(self) -> tuple[Behaviour, ...]:
        """What is set in general."""
        return self._shared.script.general

    def drop_sessions(self) -> int:
        """Break all open sessions without a word, as a crash of the provider would; return how many."""
        return self._in_loop(self._drop_sessions())

    # -- accounts

    def set_password(self, user: str, password: str, *, keep_old: bool = False) -> None:
        """Add a user or change a password; with `keep_old` those before it stay valid as well."""
        self._shared.users.set_password(user, password, keep_old=keep_old)

    def forget_old_passwords(self, user: str) -> None:
        """End the time in which old passwords of this user are still valid."""
        self._shared.users.forget_old(user)

    def remove_user(self, user: str) -> None:
        """Remove a user."""
        self._shared.users.remove(user)

    # -- what was seen

    @property
    def messages(self) -> tuple[Message, ...]:
        """The messages that were accepted, in order."""
        return self._shared.journal.messages

    @property
    def refused_messages(self) -> tuple[Message, ...]:
        """The messages that came in whole but were not accepted."""
        return self._shared.journal.refused_messages

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """Each command that got a 4xx, a 5xx or no answer."""
        return self._shared.journal.refusals

    @property
    def sessions(self) -> tuple[Session, ...]:
        """Each connection, in order; those that failed in the TLS handshake too."""
        return self._shared.journal.sessions

    @property
    def auths(self) -> tuple[AuthAttempt, ...]:
        """Each AUTH command that was ever sent, in whatever state the session was."""
        return self._shared.journal.auths

    @property
    def leaks(self) -> tuple[AuthAttempt, ...]:
        """The AUTH commands that came in the clear, or after a certificate that must not be trusted."""
        return tuple(attempt for attempt in self.auths if attempt.is_leak)

    @property
    def counts(self) -> Counts:
        """How often what happened: cheap to ask."""
        return self._shared.journal.counts

    @property
    def errors(self) -> tuple[Exception, ...]:
        """Mistakes of the stand-in itself; a test may want to see that there are none."""
        return tuple(self._shared.errors)

    def wait_for(self, predicate: Callable[[], T], *, timeout_seconds: float) -> T:
        """Wait until `predicate` is true and return what it gave. Errors: NotSeenError.

        It is asked after each change, while nothing else can be recorded: it must only read.
        """
        return self._shared.journal.wait_for(predicate, timeout_seconds=timeout_seconds)

    def forget(self) -> None:
        """Drop all records; behaviours and open sessions stay."""
        self._shared.journal.forget()

    # -- the thread

    def _serve(self) -> None:
        loop = self._running_loop()
        asyncio.set_event_loop(loop)
        loop.run_forever()

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise BuilderError("The provider stand-in is not running", hint="Use it in a `with` block")
        return self._loop

    def _in_loop(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._running_loop()).result(_STOP_SECONDS)

    def _port(self, index: int) -> int:
        if not self._held:
            raise BuilderError("The provider stand-in is not running", hint="Use it in a `with` block")
        return int(self._held[index].getsockname()[1])

    def _listen_or_refuse(self) -> None:
        if self._loop is None:
            return
        refuses = self._shared.script.has(Fault.REFUSE, Situation())
        self._in_loop(self._close_ports() if refuses else self._listen())

    async def _listen(self) -> None:
        if self._servers:
            return
        loop = asyncio.get_running_loop()
        factories: tuple[Callable[[], asyncio.BaseProtocol], ...] = (
            lambda: ProviderSMTP(self._shared, implicit_tls=False),
            lambda: ImplicitTls(ProviderSMTP(self._shared, implicit_tls=True)),
        )
        for held, factory in zip(self._held, factories, strict=True):
            listener = self._hold(held.getsockname()[1])
            self._servers.append(await loop.create_server(factory, sock=listener, backlog=_BACKLOG))

    async def _close_ports(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()

    async def _drop_sessions(self) -> int:
        running = list(self._shared.running)
        for session in running:
            session.end(at_once=True)
        return len(running)

    async def _shut_down(self) -> None:
        await self._close_ports()
        await self._drop_sessions()
        for _ in range(3):  # let the transports tell their protocols
            await asyncio.sleep(0)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _hold(self, port: int) -> socket.socket:
        """Bind a port without listening on it: it stays ours, and connections to it are refused.

        A second socket can listen on the same port as long as both were bound with SO_REUSEADDR (socket(7)).
        """
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        # asyncio sets TCP_NODELAY only where the protocol is given; without it each reply can cost 40 ms.
        held = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(self._reuse_port))
            held.bind((self.address, port))
        except OSError:
            held.close()
            raise
        return held

    def _note_loop_error(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Keep real mistakes; a client that breaks the connection or refuses a certificate is none."""
        error = context.get("exception")
        if isinstance(error, Exception) and not isinstance(error, OSError | ssl.SSLError):
            self._shared.errors.append(error)
