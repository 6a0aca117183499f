"""What runs inside vLLM's workers: `--worker-extension-cls agentopd.serving.extension.Receiver`.

It stands on torch and safetensors alone, for it is imported where the server lives.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open

VERSION = "agentopd_version"
"""Under this name a file's metadata says which weights they are."""


class Receiver:
    """Methods that vLLM adds to its workers, to be called by `/collective_rpc`."""

    if TYPE_CHECKING:
        model_runner: Any
        """The worker's own."""

    def receive_file(self, path: str, version: str, count: int) -> dict[str, Any]:
        """Load the weights in a safetensors file, and say how many they were.

        Args:
            version: what the file must say that it is; another's is one that was left behind, or
                has not arrived yet.
            count: how many weights it must hold.

        Raises:
            ValueError: it holds others.
        """
        with safe_open(path, "pt", device="cpu") as file:
            found, names = (file.metadata() or {}).get(VERSION), list(file.keys())
            if found != version or len(names) != count:
                raise ValueError(
                    f"{path} holds {len(names)} weights of version {found!r}, not {count} of "
                    f"{version!r}: do learner and server see the same folder?"
                )

            def weights() -> Iterator[tuple[str, torch.Tensor]]:
                for name in names:
                    yield name, file.get_tensor(name)

            self.model_runner.reload_weights(weights_iterator=weights())
        return {"version": version, "count": len(names)}
