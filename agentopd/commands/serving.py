"""`agentopd serve-env`: an environment for clients elsewhere."""

from __future__ import annotations

import ipaddress
import signal
from contextlib import suppress
from threading import Thread
from typing import TYPE_CHECKING

import typer

from agentopd.base.console import warn

if TYPE_CHECKING:  # a command without an environment starts sooner
    from websockets.sync.server import Server

    from agentopd.environment.settings import EnvSettings

_SECONDS = 10.0


def serve_env(env: EnvSettings, host: str, port: int, sessions: int, privileged: bool) -> None:
    """Serve until Ctrl-C or SIGTERM; steps under way may take ten seconds more.

    Raises:
        ValueError: see `agentopd.environment.serve.serve`.
    """
    from agentopd.environment.serve import serve

    server = serve(
        env.id, env.options, wrappers=env.wrappers, host=host, port=port, sessions=sessions,
        privileged=privileged,
    )  # fmt: skip
    address, taken = server.socket.getsockname()[:2]
    if not ipaddress.ip_address(address).is_loopback:
        warn(f"whoever reaches {address} can play: there is no password")
    for number in (signal.SIGINT, signal.SIGTERM):
        # Said outright: what a shell starts in the background ignores SIGINT.
        signal.signal(number, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        typer.echo(f"{env.id} at ws://{address}:{taken}/ws; Ctrl-C ends it")
        serve_from_a_thread(server).join()
    if not end(server, _SECONDS):
        warn(f"a step was still under way after {_SECONDS:g} seconds and is left unfinished")
    typer.echo("ended")


def serve_from_a_thread(server: Server) -> Thread:
    """Begin to serve. A daemon's threads are daemons too: the program can end while one hangs."""
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    return thread


def end(server: Server, seconds: float) -> bool:
    """End a server; whether every session came to its end within so many seconds."""
    ending = Thread(target=server.shutdown, daemon=True)
    ending.start()
    ending.join(seconds)
    return not ending.is_alive()
