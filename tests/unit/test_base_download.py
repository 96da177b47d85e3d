"""Downloads against a real HTTP server on loopback: whole and verified, or nothing is kept."""

from __future__ import annotations

import hashlib
import http.server
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import stamina

from builder import base, base_download, base_store
from builder.base_images import CloudImage, cloud_image
from builder.errors import BuilderError
from tests.fakes import FakeTools

IMAGE = b"\x00" * 510 + b"\x55\xaa" + b"disk" * 5000
NAME = "ubuntu-24.04-server-cloudimg-amd64.img"
FOLDER = "/releases/noble/release"
QEMU_IMG = """case $1 in info) echo '{"format": "qcow2", "virtual-size": 1}';; esac"""
GOOD = "echo '[GNUPG:] GOODSIG 1A5D UEC'; echo '[GNUPG:] VALIDSIG D2EB'"
BAD = "echo '[GNUPG:] BADSIG 1A5D UEC'; echo 'gpgv: BAD signature from UEC' >&2; exit 1"
UNKNOWN = "echo '[GNUPG:] ERRSIG 1A5D'; echo '[GNUPG:] NO_PUBKEY 1A5D'; exit 2"


class Site:
    """An HTTP server with the files of a test; `cut` are paths that end too early, `broken` answer 503."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut: set[str] = set()
        self.broken: dict[str, int] = {}
        self.asked: list[str] = []
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append(self.path)
                content = site.files.get(self.path)
                if site.broken.get(self.path, 0) > 0:
                    site.broken[self.path] -= 1
                    self.send_error(503)
                elif content is None:
                    self.send_error(404)
                else:
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    half = len(content) // 2
                    self.wfile.write(content[:half] if self.path in site.cut else content)

            def log_message(self, *_arguments: object) -> None:
                return

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def publish(self, image: bytes = IMAGE, sha256: str | None = None) -> None:
        """Serve an image with its SHA256SUMS."""
        digest = sha256 or hashlib.sha256(image).hexdigest()
        self.files[f"{FOLDER}/{NAME}"] = image
        self.files[f"{FOLDER}/SHA256SUMS"] = f"{digest} *{NAME}\n".encode()
        self.files[f"{FOLDER}/SHA256SUMS.gpg"] = b"signature"

    def stop(self) -> None:
        """Stop answering and free the port."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.stop()


@pytest.fixture(autouse=True)
def _no_waiting() -> Iterator[None]:
    with stamina.set_testing(True, attempts=3):
        yield


@pytest.fixture(autouse=True)
def _keyring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_tool: FakeTools) -> None:
    keyring = tmp_path / "cloudimage.gpg"
    keyring.write_bytes(b"keys")
    monkeypatch.setattr(base_download, "KEYRING", keyring)
    fake_tool("gpgv", GOOD)
    fake_tool("qemu-img", QEMU_IMG)


def resolve(site: Site) -> base.Base:
    return base.resolve("ubuntu-24.04", arch="amd64", site=site.url)


def nothing_is_left() -> bool:
    return all(path.name.startswith(".lock-") for path in base_store.bases_folder().iterdir())


def test_an_image_is_downloaded_verified_and_kept(site: Site) -> None:
    site.publish()
    found = resolve(site)
    assert found.path.read_bytes() == IMAGE
    assert found.sha256 == hashlib.sha256(IMAGE).hexdigest()
    assert (found.name, found.arch, found.release) == ("ubuntu-24.04", "amd64", "ubuntu-24.04")
    assert found.verified == "gpg"
    assert found.source == f"{site.url}{FOLDER}/{NAME}"


def test_a_cached_image_needs_no_network(site: Site) -> None:
    site.publish()
    first = resolve(site)
    site.asked.clear()
    assert resolve(site) == first
    assert site.asked == []


def test_refresh_asks_again_and_downloads_only_what_is_new(site: Site) -> None:
    site.publish()
    first = resolve(site)
    site.asked.clear()
    again = base.resolve("ubuntu-24.04", arch="amd64", site=site.url, refresh=True)
    assert again == first
    assert f"{FOLDER}/{NAME}" not in site.asked
    site.publish(IMAGE + b"newer")
    newer = base.resolve("ubuntu-24.04", arch="amd64", site=site.url, refresh=True)
    assert newer.sha256 != first.sha256


def test_a_wrong_checksum_leaves_no_file(site: Site) -> None:
    site.publish(sha256="0" * 64)
    with pytest.raises(BuilderError, match="has the wrong checksum") as caught:
        resolve(site)
    assert "0" * 64 in caught.value.message
    assert hashlib.sha256(IMAGE).hexdigest() in caught.value.message
    assert nothing_is_left()


def test_a_truncated_download_is_tried_three_times_and_leaves_no_file(site: Site) -> None:
    site.publish()
    site.cut.add(f"{FOLDER}/{NAME}")
    with pytest.raises(BuilderError, match="broke off in the middle"):
        resolve(site)
    assert site.asked.count(f"{FOLDER}/{NAME}") == 3
    assert nothing_is_left()


def test_a_server_error_that_passes_is_survived(site: Site) -> None:
    site.publish()
    site.broken[f"{FOLDER}/{NAME}"] = 2
    assert resolve(site).path.read_bytes() == IMAGE


def test_a_server_error_that_stays_is_told(site: Site) -> None:
    site.publish()
    site.broken[f"{FOLDER}/SHA256SUMS"] = 9
    with pytest.raises(BuilderError, match="answered 503 Service Unavailable"):
        resolve(site)


def test_a_missing_image_is_not_tried_again_and_points_to_a_built_base(site: Site) -> None:
    site.publish()
    del site.files[f"{FOLDER}/{NAME}"]
    with pytest.raises(BuilderError, match="answered 404 Not Found") as caught:
        resolve(site)
    assert "`builder base build debian-12`" in (caught.value.hint or "")
    assert site.asked.count(f"{FOLDER}/{NAME}") == 1
    assert nothing_is_left()


def test_no_network_is_told_in_one_line_with_the_way_around(site: Site) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
    with pytest.raises(BuilderError) as caught:
        base.resolve("ubuntu-24.04", arch="amd64", site=address)
    assert caught.value.message.endswith("cannot be reached: Connection refused")
    assert "`builder base build debian-12`" in (caught.value.hint or "")
    assert nothing_is_left()


def test_an_image_that_is_not_listed_is_not_downloaded(site: Site) -> None:
    site.publish()
    site.files[f"{FOLDER}/SHA256SUMS"] = b"<html>no such page</html>"
    with pytest.raises(BuilderError, match="does not list"):
        resolve(site)
    assert f"{FOLDER}/{NAME}" not in site.asked


def test_a_bad_signature_stops_before_the_download(site: Site, fake_tool: FakeTools) -> None:
    fake_tool("gpgv", BAD)
    site.publish()
    with pytest.raises(BuilderError, match="does not match its signature .*: BAD signature"):
        resolve(site)
    assert f"{FOLDER}/{NAME}" not in site.asked


def test_an_unknown_key_stops_and_says_how_to_go_on(site: Site, fake_tool: FakeTools) -> None:
    fake_tool("gpgv", UNKNOWN)
    site.publish()
    with pytest.raises(BuilderError, match="a key that is not in") as caught:
        resolve(site)
    assert "--base FILE" in (caught.value.hint or "")


def test_without_a_keyring_the_checksum_alone_counts_and_that_is_said(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cloudimage.gpg").unlink()
    site.publish()
    assert resolve(site).verified == "checksum"
    said = capsys.readouterr().err
    assert "not checked against its GPG signature: there is no keyring" in said
    assert "ubuntu-cloudimage-keyring" in said


def test_without_gpgv_the_signature_cannot_be_checked(fake_tool: FakeTools) -> None:
    (fake_tool.folder / "gpgv").unlink()
    fake_tool.only()
    assert base_download.cannot_verify(base_download.KEYRING) == "`gpgv` is not installed"


def test_a_full_disk_is_told_before_the_download(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.publish()
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr("shutil.disk_usage", lambda _folder: usage)
    with pytest.raises(BuilderError, match="The disk of .* is full"):
        resolve(site)
    assert nothing_is_left()


def test_a_disk_that_fills_up_leaves_no_file(tmp_path: Path, site: Site) -> None:
    site.publish()
    # /dev/full answers every write with "No space left on device".
    target = tmp_path / "image"
    Path(f"{target}.part").symlink_to("/dev/full")
    with pytest.raises(BuilderError, match="No space left on device") as caught:
        base_download.download(f"{site.url}{FOLDER}/{NAME}", target, hint="none")
    assert "BUILDER_CACHE" in (caught.value.hint or "")
    assert not target.exists()
    assert not Path(f"{target}.part").is_symlink()


def test_sums_are_read_in_both_forms_and_noise_is_skipped() -> None:
    text = f"{'a' * 64} *one.img\n{'b' * 64}  two.img\n# comment\n\n{'c' * 63} short.img\n"
    assert base_download.read_sums(text) == {"one.img": "a" * 64, "two.img": "b" * 64}


def test_the_hint_names_the_file_to_get_another_way() -> None:
    image: CloudImage = cloud_image("ubuntu-24.04", "amd64")
    assert NAME in base_download.build_hint(image)


def test_a_way_that_leaves_https_is_refused() -> None:
    asked = "https://cloud-images.ubuntu.com/SHA256SUMS"
    base_download.require_https(asked, [asked, "https://mirror.example/SHA256SUMS"])
    base_download.require_https("http://127.0.0.1/SHA256SUMS", ["http://127.0.0.1/SHA256SUMS"])
    with pytest.raises(BuilderError, match="leads to `http://portal.example/`, which is not HTTPS"):
        base_download.require_https(asked, [asked, "http://portal.example/", "https://mirror.example/"])
