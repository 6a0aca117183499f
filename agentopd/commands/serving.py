"""`agentopd serve-env`: an environment for clients elsewhere."""

from __future__ import annotations

import ipaddress
import signal
from contextlib import suppress
from typing import Any

import typer

from agentopd.console import warn


def serve_env(
    spec: str, options: dict[str, Any], host: str, port: int, sessions: int, privileged: bool
) -> None:
    """Serve until Ctrl-C or SIGTERM; steps under way are finished then.

    Raises:
        ValueError: see `agentopd.serve.serve`.
    """
    from agentopd.serve import serve

    server = serve(spec, options, host=host, port=port, sessions=sessions, privileged=privileged)
    address, taken = server.socket.getsockname()[:2]
    if not ipaddress.ip_address(address).is_loopback:
        warn(f"whoever reaches {address} can play: there is no password")
    for number in (signal.SIGINT, signal.SIGTERM):
        # Said outright: what a shell starts in the background ignores SIGINT.
        signal.signal(number, signal.default_int_handler)
    with server, suppress(KeyboardInterrupt):
        typer.echo(f"{spec} at ws://{address}:{taken}/ws; Ctrl-C ends it")
        server.serve_forever()
    typer.echo("ended")
