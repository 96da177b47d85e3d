"""Tests of what the agent does with answers and files that are no answers and no files at all."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from relay_agent.credential import read
from relay_agent.imds import Imds
from relay_agent.places import Places
from relay_agent.secret import Library, SecretStore
from relay_agent.settings import Shape, load
from relay_agent.trouble import Trouble

from tests.agent.relay_world import agent_json, write_json

SHAPE = Shape("smtp", ("username", "password"), "{username}", "{password}")


# JSON that Python's own reader gives up with a RecursionError.
NESTED = b"HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n" + b"[" * 50_000


@pytest.fixture
def garbage() -> Iterator[Callable[[bytes], str]]:
    """A server that answers everything with the same bytes; gives its address."""
    servers = []

    def serve(answer: bytes) -> str:
        server = socket.create_server(("127.0.0.1", 0))
        servers.append(server)

        def run() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client:
                    client.recv(65536)
                    client.sendall(answer)

        threading.Thread(target=run, daemon=True).start()
        return f"http://127.0.0.1:{server.getsockname()[1]}"

    yield serve
    for server in servers:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "imds-unreachable"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort", "imds-broken"),
        (NESTED, "imds-broken"),
    ],
)
def test_something_else_in_the_place_of_the_metadata_service_is_said(
    garbage: Callable[[bytes], str], answer: bytes, code: str
) -> None:
    with pytest.raises(Trouble) as caught:
        Imds(garbage(answer), timeout_seconds=1).role_credentials()
    assert caught.value.code == code


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\xff\xfe", NESTED])
def test_something_else_in_the_place_of_secrets_manager_is_said(
    garbage: Callable[[bytes], str], metadata: Any, answer: bytes
) -> None:
    endpoint = garbage(answer)
    store = SecretStore(Library(), Imds(metadata.endpoint), endpoint=endpoint)
    with pytest.raises(Trouble) as caught:
        store.fetch("relay/ses", "us-east-1")
    store.close()
    assert caught.value.code == "endpoint-error"


def test_an_endpoint_that_is_no_address_is_named_and_does_not_end_the_agent(places: Places) -> None:
    write_json(places.agent_json, agent_json())
    write_json(places.boot_json, {"schema": 1, "endpoint": "http://["})
    with pytest.raises(Trouble, match="`endpoint`"):
        load(places)


def test_launch_data_that_is_nested_too_deeply_is_no_json(places: Places) -> None:
    write_json(places.agent_json, agent_json())
    places.boot_json.write_text("[" * 100_000)
    with pytest.raises(Trouble, match="is not JSON"):
        load(places)


@pytest.mark.parametrize("text", ['{"username": "u", "password": "half\\ud800"}', "[" * 100_000])
def test_a_secret_that_no_map_can_carry_is_a_wrong_shape(text: str) -> None:
    with pytest.raises(Trouble) as caught:
        read(text, shapes=(SHAPE,), secret="relay/ses", region=None)
    assert caught.value.code == "secret-shape"


def test_a_library_that_could_not_be_loaded_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library()
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "botocore.session", None)
        with pytest.raises(Trouble, match="cannot be imported"):
            library.session(timeout_seconds=10)
    assert library.session(timeout_seconds=60) is not None
