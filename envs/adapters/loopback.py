"""Addresses of this machine: no proxy stands between a machine and itself."""

from __future__ import annotations

import urllib.request
from urllib.parse import urlsplit


def is_local(url: str) -> bool:
    """Whether an address is one of this machine."""
    return urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")


def unreachable(url: str, error: OSError) -> str:
    """Why the server at `url` cannot be reached, in words."""
    reason = getattr(error, "reason", error)
    said = str(reason) or type(reason).__name__
    return f"{url} cannot be reached ({said}): is the server running, and this its address?"


def opener(url: str) -> urllib.request.OpenerDirector:
    """What opens addresses of `url`'s host over HTTP, past the proxies where it is this machine."""
    return urllib.request.build_opener(*[urllib.request.ProxyHandler({})] * is_local(url))
