"""How weights come from the learner into vLLM's servers: by file, shared GPU memory, or NCCL."""

from __future__ import annotations

import base64
import importlib
import os
import pickle
import socket
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.multiprocessing.reductions import reduce_tensor

from agentopd.base.files import naming
from agentopd.serving.extension import VERSION, Receiver
from agentopd.serving.http import HttpClient

Weights = Iterable[tuple[str, torch.Tensor]]
_PREFIX = "agentopd-weights"
_MEMORY = Path("/dev/shm")
_START, _UPDATE = "/start_weight_update", "/update_weights"
_FINISH, _INIT = "/finish_weight_update", "/init_weight_transfer_engine"


class Transport(ABC):
    """Brings weights into a server that answers nobody meanwhile."""

    def __init__(self, client: HttpClient) -> None:
        self.client = client

    @abstractmethod
    def send(self, version: str, weights: Weights) -> None:
        """Let the server load these weights.

        Raises:
            ServerError: it does not.
        """

    @contextmanager
    def _update(self) -> Iterator[None]:
        """An update as vLLM's own engines of weight transfer have it."""
        self.client.post(_START, {}, patience=0)
        yield
        self.client.post(_FINISH, {}, patience=0)


class FileTransport(Transport):
    """A safetensors file that lives for one sync, in a folder that both sides see.

    The server loads it with `agentopd.serving.extension`, and says what it has loaded.

    Args:
        folder: by default this machine's memory, where it has such a folder.
    """

    def __init__(self, client: HttpClient, folder: str = "") -> None:
        super().__init__(client)
        own = _MEMORY if _MEMORY.is_dir() else Path(tempfile.gettempdir())
        self.folder = Path(folder) if folder else own
        self._sweep()

    def send(self, version: str, weights: Weights) -> None:
        """See `Transport.send`."""
        path = self.folder / f"{_PREFIX}-{socket.gethostname()}-{os.getpid()}-{version}"
        try:
            count = _write(path, version, weights)
            self._call({"path": str(path.resolve()), "version": version, "count": count})
        finally:
            path.unlink(missing_ok=True)

    def _call(self, call: dict[str, Any]) -> None:
        path, method = "/collective_rpc", Receiver.receive_file.__name__
        answer = self.client.post(path, {"method": method, "kwargs": call}, patience=0)
        results = self.client.json(path, answer).get("results") or []
        expected = {"version": call["version"], "count": call["count"]}
        if not results or any(result != expected for result in results):
            raise self.client.error(
                path,
                f"its workers loaded {results}, not {call['count']} weights",
                "start the server with python -m agentopd.serving.server",
            )

    def _sweep(self) -> None:
        """Delete what learners on this machine left behind that were killed during a sync."""
        for path in self.folder.glob(f"{_PREFIX}-{socket.gethostname()}-*"):
            pid = path.name.removeprefix(f"{_PREFIX}-{socket.gethostname()}-").partition("-")[0]
            if pid.isdecimal() and not _alive(int(pid)):
                path.unlink(missing_ok=True)


class IpcTransport(Transport):
    """Memory of a GPU on which learner and server both run: nothing is copied on the way.

    The server needs `--weight-transfer-config '{"backend": "ipc"}'` and, since handles travel
    pickled, VLLM_ALLOW_INSECURE_SERIALIZATION=1: nobody else may reach it. No GPU was there to try
    it on; what arrives is compared after each sync as everywhere.
    """

    def __init__(self, client: HttpClient) -> None:
        super().__init__(client)
        self._ready = False

    def send(self, version: str, weights: Weights) -> None:
        """See `Transport.send`."""
        if not self._ready:
            self.client.post(_INIT, {"init_info": {"packed": False}}, patience=0)
            self._ready = True
        held = [(name, tensor.contiguous()) for name, tensor in weights]  # alive until the end
        described = _described(held)
        handles = [{_uuid(tensor): reduce_tensor(tensor)[1]} for _, tensor in held]
        described["ipc_handles_pickled"] = base64.b64encode(pickle.dumps(handles)).decode()
        with self._update():
            self.client.post(_UPDATE, {"update_info": described}, patience=0)
        torch.cuda.ipc_collect()


class NcclTransport(Transport):
    """NCCL from the learner's GPU to those of the server, on this machine or others.

    The server needs `--weight-transfer-config '{"backend": "nccl"}'`, and the learner vLLM, whose
    communicator it uses. No GPU was there to try it on; what arrives is compared after each sync as
    everywhere.

    Args:
        address: under which the server's workers reach the learner, as HOST:PORT.
        workers: GPUs of the server.
    """

    def __init__(self, client: HttpClient, address: str, workers: int) -> None:
        super().__init__(client)
        host, _, port = address.rpartition(":")
        self._group = {"master_address": host, "master_port": int(port), "world_size": workers + 1}
        self._communicator: Any = None

    def send(self, version: str, weights: Weights) -> None:
        """See `Transport.send`."""
        if self._communicator is None:
            self._communicator = self._joined()
        held = [(name, tensor.contiguous()) for name, tensor in weights]
        with self._update():
            taken = self.client.submit(_UPDATE, {"update_info": _described(held)})
            for _, tensor in held:
                self._communicator.broadcast(tensor, src=0, stream=torch.cuda.current_stream())
            torch.cuda.current_stream().synchronize()
            taken.result()

    def _joined(self) -> Any:
        """The learner's end; the workers' ends wait for it while they answer the server's call."""
        common = importlib.import_module("vllm.distributed.weight_transfer.nccl_common")
        told = {**self._group, "rank_offset": 1, "packed": False}
        joining = self.client.submit(_INIT, {"init_info": told})
        communicator = common.trainer_init(self._group)
        joining.result()
        return communicator


def _write(path: Path, version: str, weights: Weights) -> int:
    """Write weights into a new file that others may read once it is there; how many they are."""
    held = dict[str, torch.Tensor]()
    places = set[int]()
    for name, tensor in weights:
        here = tensor.contiguous().cpu()
        # What layers share is written under each name: safetensors has no other way.
        held[name] = here.clone() if here.data_ptr() in places else here
        places.add(here.data_ptr())
    with naming(path):
        save_file(held, path, {VERSION: version})
    return len(held)


def _described(weights: list[tuple[str, torch.Tensor]]) -> dict[str, Any]:
    return {
        "names": [name for name, _ in weights],
        "dtype_names": [str(tensor.dtype).removeprefix("torch.") for _, tensor in weights],
        "shapes": [list(tensor.shape) for _, tensor in weights],
    }


def _uuid(tensor: torch.Tensor) -> str:
    return str(torch.cuda.get_device_properties(tensor.device).uuid)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        return True
    return True
