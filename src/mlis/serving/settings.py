"""What a server may be asked, and how much of it: every limit, its default and its range."""

import ipaddress
from dataclasses import dataclass

from mlis.section import Section, setting

MEGA = 1_000_000
MIB = 1 << 20


@dataclass(frozen=True)
class Limits(Section):
    """How much one request, one client and the server as a whole may take."""

    max_upload: float = setting(32.0, "MiB of a request", low=0.001, high=1024)
    max_files: int = setting(32, "images of a request", low=1, high=10_000)
    max_rows: int = setting(1000, "rows of features of a request", low=1, high=100_000)
    max_megapixels: float = setting(
        50.0, "millions of pixels that an image may unpack to", low=0.001, high=178.0
    )
    max_classes: int = setting(
        10_000, "classes that the model may grow to by additions", low=1, high=1_000_000
    )
    max_top_k: int = setting(100, "classes of an answer", low=1, high=100_000)
    max_connections: int = setting(
        256, "connections at a time; beyond, requests get 503", low=1, high=65_536
    )
    max_waiting: int = setting(
        512, "images and rows that may wait; beyond, requests get 503", low=1, high=1_000_000
    )
    max_batch: int = setting(32, "images or rows that are computed at once", low=1, high=65_536)
    max_wait: float = setting(
        5.0, "milliseconds that a request waits for others to share its batch", low=0, high=1000
    )
    rate: float = setting(
        50.0, "requests a second of one client, bursts of two seconds; 0: any", low=0, high=1e6
    )
    timeout: float = setting(30.0, "seconds until a request is given up", low=0.01, high=3600)

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
        host: the address that the server listens at.
        allow_changes: whether classes may be added.
        page: whether there is a page beside the API.
        hostnames: names that requests may address the server by; empty: any. They keep a website
            whose name is made to point at this machine (DNS rebinding) from using its visitors'
            browsers as a door.
        proxy: address of a proxy whose X-Forwarded-* headers are believed, or None.
    """

    host: str = "127.0.0.1"
    allow_changes: bool = False
    page: bool = True
    hostnames: tuple[str, ...] = ()
    proxy: str | None = None

    @classmethod
    def of(
        cls,
        host: str,
        *,
        allow_changes: bool | None = None,
        page: bool = True,
        hostnames: tuple[str, ...] = (),
        proxy: str | None = None,
    ) -> "Access":
        """Fill in what depends on the address.

        On a loopback address only this machine's users can ask, so that changes are allowed, and
        only its own names are served. On any other, changes are for those who ask for them, and
        names are not checked unless some are given.
        """
        local = is_loopback(host)
        allow = (local and proxy is None) if allow_changes is None else allow_changes
        if local:
            hostnames = ("localhost", "127.0.0.1", "[::1]", host, *hostnames)
        return cls(host, allow, page, tuple(dict.fromkeys(hostnames)), proxy)


def is_loopback(host: str) -> bool:
    """Whether only programs on this machine reach an address.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.casefold() == "localhost"
