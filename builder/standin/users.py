"""The accounts of the provider stand-in: passwords that can change while it runs, kept as digests only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from threading import Lock
from typing import Literal

PasswordIs = Literal["current", "old", "neither"]


@dataclass
class _Account:
    current: str
    valid: set[str] = field(default_factory=set)
    former: set[str] = field(default_factory=set)


class Users:
    """Who may log in; every method may be called from any thread."""

    def __init__(self, passwords: Mapping[str, str]) -> None:
        self._lock = Lock()
        self._accounts: dict[str, _Account] = {}
        for user, password in passwords.items():
            self.set_password(user, password)

    def __bool__(self) -> bool:
        return bool(self._accounts)

    def set_password(self, user: str, password: str, *, keep_old: bool = False) -> None:
        """Add a user or change the password; with `keep_old` the ones before stay valid too."""
        new = digest(password.encode())
        with self._lock:
            account = self._accounts.setdefault(user, _Account(new))
            if account.current != new:
                account.former.add(account.current)
            account.current = new
            account.former.discard(new)
            account.valid = {new, *account.valid} if keep_old else {new}

    def forget_old(self, user: str) -> None:
        """End the time in which an old password of this user is still valid."""
        with self._lock:
            account = self._accounts[user]
            account.valid = {account.current}

    def remove(self, user: str) -> None:
        """Remove a user, as deleting an access key does."""
        with self._lock:
            self._accounts.pop(user, None)

    def check(self, user: str, password: bytes) -> tuple[PasswordIs, bool]:
        """Say which password this is, and whether it is valid now."""
        given = digest(password)
        with self._lock:
            account = self._accounts.get(user)
            if account is None:
                return "neither", False
            if given == account.current:
                return "current", True
            return ("old" if given in account.former else "neither"), given in account.valid


def digest(password: bytes) -> str:
    """Return the SHA-256 of a password in hexadecimal."""
    return sha256(password).hexdigest()
