"""Download a cloud image so that only a verified and whole one is ever kept."""

from __future__ import annotations

import errno
import hashlib
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import requests
import stamina

from builder import console, process
from builder.base_images import CloudImage
from builder.base_store import Verified
from builder.errors import BuilderError, ToolError

# In Ubuntu's package `ubuntu-cloudimage-keyring` and in Debian's `ubuntu-keyring` (13 and newer).
KEYRING = Path("/usr/share/keyrings/ubuntu-cloudimage-keyring.gpg")

_CHUNK = 1 << 20
_TIMEOUTS = (10, 60)  # seconds to connect, and without a byte
_KEYRING_HINT = (
    "Install the keyring of Canonical's image builder: `apt-get install gpgv "
    "ubuntu-cloudimage-keyring` (on Debian 13 and newer: `ubuntu-keyring`)"
)


class _TemporaryServerError(Exception):
    """A 5xx answer: worth another try."""


_RETRIED = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    _TemporaryServerError,
)


def build_hint(image: CloudImage) -> str:
    """Say how to get a base without Canonical's site."""
    return (
        "Where images cannot be downloaded, run `builder base build debian-12` and bake with "
        f"`--base debian-12`, or get `{image.file_name}` another way and give `--base FILE`"
    )


def read_sums(text: str) -> dict[str, str]:
    """Read a SHA256SUMS file as `{file name: digest}`. Format: sha256sum(1)."""
    lines = (re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line) for line in text.splitlines())
    return {match[2]: match[1] for match in lines if match}


def fetch_digest(image: CloudImage, folder: Path, *, keyring: Path | None = None) -> tuple[str, Verified]:
    """Return the digest that Canonical publishes for the image and how far it can be trusted.

    Both files stay in `folder`. BuilderError: no network, the signature is bad, the image unlisted.
    """
    sums, signature = folder / "SHA256SUMS", folder / "SHA256SUMS.gpg"
    keyring = keyring or KEYRING
    download(image.sums_url, sums, hint=build_hint(image))
    verified: Verified = "checksum"
    reason = cannot_verify(keyring)
    if reason is None:
        download(image.signature_url, signature, hint=build_hint(image))
        check_signature(sums, signature, keyring)
        verified = "gpg"
    else:
        console.warn(f"The checksum is not checked against its GPG signature: {reason}. {_KEYRING_HINT}")
    digest = read_sums(sums.read_text(encoding="utf-8", errors="replace")).get(image.file_name)
    if digest is None:
        raise BuilderError(f"`{image.sums_url}` does not list `{image.file_name}`", hint=build_hint(image))
    return digest, verified


def cannot_verify(keyring: Path = KEYRING) -> str | None:
    """Say why a GPG signature cannot be checked here; None when it can."""
    if not keyring.is_file():
        return f"there is no keyring `{keyring}`"
    try:
        process.find_tool("gpgv", to="check a signature", install="apt-get install gpgv")
    except ToolError:
        return "`gpgv` is not installed"
    return None


def check_signature(sums: Path, signature: Path, keyring: Path) -> None:
    """Check the signature on SHA256SUMS; BuilderError unless a key of the keyring made it.

    Status lines: GnuPG's doc/DETAILS, "Format of the --status-fd output".
    """
    finished = process.run(["gpgv", "--status-fd", "1", "--keyring", keyring, signature, sums], check=False)
    status = set(re.findall(r"^\[GNUPG:\] (\w+)", finished.stdout, re.MULTILINE))
    if finished.returncode == 0 and {"GOODSIG", "VALIDSIG"} <= status:
        return
    if "NO_PUBKEY" in status:
        raise BuilderError(
            f"`{signature.name}` was made with a key that is not in `{keyring}`",
            hint="Bring the keyring up to date: `apt-get install --only-upgrade "
            "ubuntu-cloudimage-keyring`, or check the image yourself and give `--base FILE`",
        )
    raise BuilderError(
        f"`{sums.name}` does not match its signature `{signature.name}`: {_last_line(finished.stderr)}",
        hint="Somebody between here and Canonical may have changed the file; try another network",
    )


def fetch_image(image: CloudImage, target: Path, sha256: str) -> None:
    """Download the image to `target` and check its digest; on any failure nothing is left there."""
    with console.step(f"Downloading {image.file_name}") as step:
        found = download(image.url, target, hint=build_hint(image), step=step)
    if found != sha256:
        target.unlink()
        raise BuilderError(
            f"`{image.url}` has the wrong checksum: SHA-256 `{found}`, expected `{sha256}`",
            hint="The download was damaged, or the image was just replaced; try again",
        )


def download(url: str, target: Path, *, hint: str, step: console.Step | None = None) -> str:
    """Download to `target` and return the SHA-256 digest of what came.

    The file appears under its name only when it is whole; a partial one is removed on any failure.
    """
    part = target.with_name(target.name + ".part")
    try:
        with _disk_errors(part):
            digest = _attempts(url, part, step)
            part.replace(target)
            return digest
    except requests.HTTPError as error:
        status = error.response.status_code
        raise BuilderError(f"`{url}` answered {status} {error.response.reason}", hint=hint) from error
    except _TemporaryServerError as error:
        raise BuilderError(f"`{url}` answered {error}, three times", hint=hint) from error
    except requests.Timeout as error:
        raise BuilderError(f"`{url}` did not answer within {_TIMEOUTS[1]} s", hint=hint) from error
    except requests.exceptions.ChunkedEncodingError as error:
        raise BuilderError(f"`{url}` broke off in the middle of the file", hint=hint) from error
    except requests.RequestException as error:
        raise BuilderError(f"`{url}` cannot be reached: {_reason(error)}", hint=hint) from error
    finally:
        part.unlink(missing_ok=True)


# A retry is shown as a step's note, not as stamina's own line in a log that nobody set up.
stamina.instrumentation.set_on_retry_hooks(())


@stamina.retry(on=_RETRIED, attempts=3, timeout=None, wait_initial=1, wait_max=10)
def _attempts(url: str, part: Path, step: console.Step | None) -> str:
    with requests.get(url, stream=True, timeout=_TIMEOUTS, allow_redirects=True) as response:
        if response.status_code >= 500:
            raise _TemporaryServerError(f"{response.status_code} {response.reason}")
        response.raise_for_status()
        require_https(url, [each.url for each in (*response.history, response)])
        size = int(response.headers.get("Content-Length", 0))
        _require_room(part.parent, size)
        return _write(response, part, size, step)


def require_https(asked: str, hops: Sequence[str]) -> None:
    """Refuse a way that leaves TLS: where no keyring is, TLS alone vouches for the checksum.

    Errors: BuilderError naming the address that is not HTTPS.
    """
    plain = [hop for hop in hops if not hop.startswith("https://")]
    if asked.startswith("https://") and plain:
        raise BuilderError(
            f"`{asked}` leads to `{plain[0]}`, which is not HTTPS",
            hint="Somebody between here and Canonical may have changed the answer; try another network",
        )


def _write(response: requests.Response, part: Path, size: int, step: console.Step | None) -> str:
    digest, done = hashlib.sha256(), 0
    with part.open("wb") as stream:
        for chunk in response.iter_content(_CHUNK):
            stream.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            if step is not None and size:
                # One note per tenth: without a terminal each note is a line.
                step.note(f"{done * 10 // size * 10} % of {size / 1e6:.0f} MB")
    return digest.hexdigest()


def _require_room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if size > free:
        raise BuilderError(
            f"The disk of `{folder}` is full: {size / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are free",
            hint="Make room, or set `BUILDER_CACHE` to a folder on another disk",
        )


@contextmanager
def _disk_errors(part: Path) -> Iterator[None]:
    try:
        yield
    except requests.RequestException:  # an OSError too, but about the network
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise BuilderError(
            f"Cannot write `{part}`: {error.strerror}",
            hint="Make room, or set `BUILDER_CACHE` to a folder on another disk" if full else None,
        ) from error


def _reason(error: BaseException) -> str:
    """Return the innermost cause: requests wraps `Connection refused` in three layers."""
    text = str(error)
    for known in (
        "Connection refused",
        "Name or service not known",
        "Temporary failure in name resolution",
        "No address associated with hostname",
        "Network is unreachable",
        "No route to host",
        "certificate verify failed",
        "Connection reset by peer",
    ):
        if known in text:
            return known
    return text.splitlines()[0] if text else type(error).__name__


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].removeprefix("gpgv: ") if lines else "gpgv gave no reason"
