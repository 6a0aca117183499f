"""A second wall around the interpreter's process, of what the operating system can forbid.

Behind it the process writes no file, opens few, gains no rights, has bounded memory and processor
time, is silent, and, where we are root, is nobody.
"""

from __future__ import annotations

import atexit
import os
import shlex
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

_NOBODY = 65534
_OWN_MEGABYTES = 512
"""What the interpreter takes for itself, most of it addresses that it never touches."""
_SECONDS = 600
_FILES = 64


@lru_cache(maxsize=8)
def jailed(binary: str, megabytes: int) -> str:
    """An executable that runs `binary` behind the wall; `binary` itself where there is no shell.

    Args:
        megabytes: what a cell may use, above what the interpreter needs.
    """
    shell = shutil.which("sh")
    if os.name != "posix" or shell is None:
        return binary
    kilobytes = (megabytes + _OWN_MEGABYTES) * 1024
    limits = {"c": 0, "f": 0, "n": _FILES, "t": _SECONDS, "v": kilobytes}
    lines = [f"ulimit -{name} {value} || exit 126" for name, value in limits.items()]
    # What the process would say of its end is told by its end.
    run = shlex.join([*_without_rights(binary), binary])
    folder = Path(tempfile.mkdtemp(prefix="agentopd-desk-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    script = folder / "monty"
    script.write_text("\n".join([f"#!{shell}", *lines, f'exec {run} "$@" 2>/dev/null', ""]))
    folder.chmod(0o755)
    script.chmod(0o755)
    return str(script)


def _without_rights(binary: str) -> list[str]:
    """What to put before a command so that it gains no rights and, run by root, loses root's."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return []
    plain = [setpriv, "--no-new-privs"]
    nobody = [*plain, f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"]
    for way in (nobody, plain) if os.geteuid() == 0 else (plain,):
        # Nobody may not be allowed to reach the binary, and a container not to change the user.
        tried = subprocess.run([*way, binary, "--version"], capture_output=True, timeout=60)
        if tried.returncode == 0:
            return way
    return []
