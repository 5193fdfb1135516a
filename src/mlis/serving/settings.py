"""Limits of the server, with defaults and ranges."""

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from mlis.config import Section, setting
from mlis.errors import SettingsError

MEGA = 1_000_000
MIB = 1 << 20
MIN_TOKEN_LENGTH = 16


@dataclass(frozen=True)
class Limits(Section):
    """How much one request, one client and the server as a whole may take."""

    max_upload: float = setting(32.0, "MiB per request", low=0.001, high=1024)
    max_files: int = setting(32, "images per request", low=1, high=10_000)
    max_rows: int = setting(256, "rows of features per request", low=1, high=100_000)
    max_megapixels: float = setting(
        50.0, "millions of pixels that an image may unpack to", low=0.001, high=178.0
    )
    max_classes: int = setting(
        10_000, "classes that the model may grow to by additions", low=1, high=1_000_000
    )
    max_top_k: int = setting(100, "classes per answer", low=1, high=100_000)
    max_connections: int = setting(
        256, "open connections, a quarter of them from one address", low=1, high=65_536
    )
    max_waiting: int = setting(
        256,
        "images, their megapixels, and rows in progress; half of them from one address; beyond, "
        "requests get 503",
        low=1,
        high=1_000_000,
    )
    max_batch: int = setting(32, "images or rows that are computed at once", low=1, high=65_536)
    max_wait: float = setting(
        5.0, "milliseconds that a request waits for others to share its batch", low=0, high=1000
    )
    rate: float = setting(
        50.0,
        "requests per second from one address, in bursts of up to two seconds; 0: unlimited",
        low=0,
        high=1e6,
    )
    timeout: float = setting(30.0, "seconds until a request is abandoned", low=0.01, high=3600)

    @property
    def upload_bytes(self) -> int:
        """`max_upload` in bytes."""
        return int(self.max_upload * MIB)

    @property
    def pixels(self) -> int:
        """`max_megapixels` in pixels."""
        return int(self.max_megapixels * MEGA)


@dataclass(frozen=True)
class Access:
    """Who may ask what.

    Attributes:
        host: the address that the server listens on.
        allow_changes: whether classes may be added, removed and renamed.
        page: whether there is a page beside the API.
        hostnames: names that requests may address the server by. They keep a website whose name is
            made to point at this machine (DNS rebinding) from sending requests through its
            visitors' browsers.
        proxy: address of a proxy whose X-Forwarded-For and -Proto headers are trusted, or None.
        token: secret that changes need, or empty.
    """

    host: str = "127.0.0.1"
    allow_changes: bool = False
    page: bool = True
    hostnames: tuple[str, ...] = ("localhost",)
    proxy: str | None = None
    token: str = field(default="", repr=False)

    @classmethod
    def of(
        cls,
        host: str,
        *,
        allow_changes: bool | None = None,
        page: bool = True,
        hostnames: tuple[str, ...] = (),
        proxy: str | None = None,
        token: str = "",
    ) -> "Access":
        """Fill in what depends on the address.

        On a loopback address without a proxy only users of this machine can connect, so that
        changes are allowed. Everywhere else they need `allow_changes`, a name and a token.

        Raises:
            SettingsError: changes are allowed to other machines without a name or a token.
        """
        private = is_loopback(host) and proxy is None
        allow = private if allow_changes is None else allow_changes
        if allow and not private and not (hostnames and token):
            missing = " and ".join(
                flag
                for flag, given in (("--hostname", hostnames), ("--token-file", token))
                if not given
            )
            raise SettingsError(
                f"--allow-changes for other machines: expected --hostname and --token-file, got no "
                f"{missing}. Add {missing}, or listen on 127.0.0.1 without --proxy"
            )
        own = ("localhost", "127.0.0.1", "[::1]") if is_loopback(host) else ("localhost",)
        bracketed = f"[{host}]" if ":" in host and not host.startswith("[") else host
        names = dict.fromkeys((*own, bracketed, *hostnames))
        return cls(host, allow, page, tuple(names), proxy, token)


def is_loopback(host: str) -> bool:
    """Whether only programs on this machine reach an address.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.casefold() == "localhost"


def read_token(path: Path) -> str:
    """The token in a file. Raises `SettingsError` where it cannot be read or is too short."""
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not ASCII text"
        raise SettingsError(f"--token-file {path}: cannot be read: {reason}") from None
    if len(token) < MIN_TOKEN_LENGTH or not token.isprintable() or " " in token:
        raise SettingsError(
            f"--token-file {path}: expected one word of at least {MIN_TOKEN_LENGTH} characters, "
            f"got {len(token)} characters. Make one: openssl rand -hex 32"
        )
    return token
