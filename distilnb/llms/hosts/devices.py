"""On which GPUs a host loads its model: those that were named, else those with the most free memory."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from distilnb.errors import ModelLoadError
from distilnb.home import private_folder
from distilnb.llms.hosts.place import Place, all_places

ROOM = 1.2  # of a model's weights: what it needs beside them, at least
_ASK_TIMEOUT_S = 30.0  # the driver may have to be woken


class Gpu(NamedTuple):
    """A GPU as the driver lists it."""

    number: int
    uuid: str
    free_bytes: int


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Keep two hosts that start at the same time from choosing the same GPU."""
    descriptor = os.open(private_folder("hosts") / ".placing", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def choose_devices(place: Place, settings: Mapping[str, Any]) -> None:
    """Set CUDA_VISIBLE_DEVICES for this process; nothing is changed where there is no GPU, and none was asked for.

    `gpus` of the settings: a list names them, a number says how many, 0 is the CPU, None leaves the choice: the
    freest, as many as `size_bytes` of weights need where `may_spread`, at least `n_devices`.

    Raises ModelLoadError when fewer are there than asked for.
    """
    wanted = settings.get("gpus")
    if wanted == 0 or wanted == []:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        return
    present = _visible(list_gpus())
    if not present and wanted is None:
        return
    numbers = [gpu.number for gpu in present]
    if isinstance(wanted, list):
        chosen = list(wanted)
    else:
        chosen = [gpu.number for gpu in _pick(present, place, settings, wanted)]
    if not set(chosen) <= set(numbers) or (isinstance(wanted, int) and len(chosen) < wanted):
        raise ModelLoadError(
            f"gpus={wanted!r} was asked for; this machine has {numbers or 'none'} to offer.",
            "Name GPUs that are there (nvidia-smi lists them), or gpus=0 for the CPU.",
        )
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # the driver's own numbers
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, chosen))


def _pick(
    present: Sequence[Gpu], place: Place, settings: Mapping[str, Any], wanted: int | None
) -> Sequence[Gpu]:
    """Return the GPUs that no other host has, those with the most free memory first."""
    taken = _taken_by_others(place)
    order = sorted(present, key=lambda gpu: (taken.count(str(gpu.number)), -gpu.free_bytes))
    if wanted is not None:
        return order[:wanted]
    n_least = int(settings.get("n_devices") or 1)
    if not settings.get("may_spread"):
        return order[:n_least]
    need = ROOM * int(settings.get("size_bytes") or 0)
    n_devices = 1
    while n_devices < len(order) and sum(gpu.free_bytes for gpu in order[:n_devices]) < need:
        n_devices += 1
    return order[: max(n_least, n_devices)]


def _taken_by_others(place: Place) -> list[str]:
    infos = [other.info() for other in all_places() if other != place and other.is_alive()]
    return [device for info in infos if info is not None for device in info.devices.split(",") if device]


def _visible(gpus: Sequence[Gpu]) -> list[Gpu]:
    """Return those that the environment lets this process see."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return list(gpus)
    names = [name.strip() for name in named.split(",") if name.strip()]
    return [gpu for gpu in gpus if str(gpu.number) in names or any(gpu.uuid.startswith(n) for n in names)]


def list_gpus() -> list[Gpu]:
    """Return the GPUs that NVIDIA's driver lists; none where it is not installed or does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=index,uuid,memory.free", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, timeout=_ASK_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return read_gpus(told.stdout)


def read_gpus(told: str) -> list[Gpu]:
    r"""Return the GPUs in a list of number, UUID and free MiB.

    >>> read_gpus("0, GPU-1a2b, 81038\n")
    [Gpu(number=0, uuid='GPU-1a2b', free_bytes=84974501888)]
    """
    found = []
    for line in told.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 3 and parts[0].isdigit():
            free_mib = int(parts[2]) if parts[2].isdigit() else 0  # "[N/A]" where memory is the machine's own
            found.append(Gpu(int(parts[0]), parts[1], free_mib << 20))
    return found
