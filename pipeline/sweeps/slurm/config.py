"""What a sweep asks of Slurm: the config group ``executor``."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.config.instantiate import instantiate
from pipeline.config.schema import OWN_PACKAGES
from pipeline.errors import ConfigError

KEY = "executor"
NOTICE = signal.SIGUSR2  # Slurm sends it to a task before its time limit
NOTICE_SECONDS = 90
LEAST_SECONDS = 180  # of a time limit: Slurm may send the notice a minute early
TIME = re.compile(r"\d+(:[0-5]?\d){0,2}|\d+-\d+(:[0-5]?\d){0,2}")
RESERVED = {  # options that the driver needs as they are
    *("array", "clusters", "error", "job-name", "nodes", "ntasks", "open-mode", "output", "parsable", "requeue"),
    *("test-only", "time", "wait", "wrap"),
}
MEMORY = re.compile(r"\d+[KMGT]?")


@dataclass(frozen=True)
class SlurmConfig:
    """Options of each task, with the names of ``sbatch``. None leaves an option to the cluster.

    Args:
        partition: The partition; several are separated by commas.
        account: The account that is charged.
        time: Time limit of a task: minutes, or a text such as "04:00:00" or "2-12".
        mem: Memory of a task: MiB, or with a unit, such as "4G".
        cpus_per_task: Cores of a task. One stack trains on one core.
        array_parallelism: The most tasks that run at the same time.
        options: Other options of ``sbatch`` by name, such as ``{qos: high, constraint: zen3}``.
    """

    partition: str | None
    account: str | None
    time: int | str
    mem: int | str | None
    cpus_per_task: int
    array_parallelism: int
    options: Mapping[str, Any]

    def __post_init__(self) -> None:
        for name in ("cpus_per_task", "array_parallelism"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be >= 1")
        if not TIME.fullmatch(str(self.time)):
            raise ValueError(f'time={self.time}: must be minutes, or a text such as "04:00:00" or "2-12"')
        if seconds_of(str(self.time)) < LEAST_SECONDS and "signal" not in self.options:
            least = f"{LEAST_SECONDS // 60} minutes"
            raise ValueError(f"time={self.time}: must be at least {least}, since a task saves its state before the end")
        if self.mem is not None and not MEMORY.fullmatch(str(self.mem)):
            raise ValueError(f"mem={self.mem}: must be MiB, or have a unit, such as 4G")
        for name, value in self.options.items():
            if name in RESERVED:
                raise ValueError(f"options.{name}={value}: is set by the driver; allowed: other options of sbatch")
            if not re.fullmatch(r"[a-z][a-z-]+", name) or value is False or not isinstance(value, str | int):
                raise ValueError(f"options.{name}={value}: must be an option of sbatch, such as constraint: zen3")

    def sbatch_options(self) -> dict[str, Any]:
        """Return the options as submitit takes them."""
        named = {name: getattr(self, name) for name in ("partition", "account", "mem", "cpus_per_task")}
        chosen = {name: value for name, value in named.items() if value is not None}
        notice = f"{NOTICE.name.removeprefix('SIG')}@{NOTICE_SECONDS}"
        return {
            **chosen,
            "time": self.time,
            "additional_parameters": {"requeue": True, "signal": notice, **self.options},
        }


def seconds_of(time: str) -> int:
    """Return the seconds of a time limit: minutes, M:S, H:M:S, D-H, D-H:M or D-H:M:S."""
    days, dash, rest = time.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    units = (3600, 60, 1) if dash or len(parts) == 3 else (60, 1)
    return int(days or 0) * 86400 + sum(part * unit for part, unit in zip(parts, units, strict=False))


def slurm_of(raw_config: Mapping[str, Any]) -> SlurmConfig | None:
    """Return the config of Slurm; None for a config that runs on this machine.

    Raises:
        ConfigError: A value is wrong.
    """
    if raw_config.get(KEY) is None:
        return None
    config: SlurmConfig = instantiate(SlurmConfig, raw_config[KEY], KEY, OWN_PACKAGES)
    return config


def refuse_executor(raw_config: Mapping[str, Any]) -> None:
    """Refuse a config with an executor, in a command that runs on this machine only.

    Raises:
        ConfigError: The config chooses an executor.
    """
    if raw_config.get(KEY) is not None:
        raise ConfigError(f"{KEY}=slurm: runs sweeps only; allowed: {KEY}=null")
