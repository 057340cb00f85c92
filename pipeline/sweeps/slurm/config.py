"""What a sweep asks of Slurm: the config group ``executor``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.config.instantiate import instantiate
from pipeline.config.schema import OWN_PACKAGES
from pipeline.errors import ConfigError

KEY = "executor"
TIME = re.compile(r"\d+(:[0-5]?\d){0,2}|\d+-\d+(:[0-5]?\d){0,2}")
MEMORY = re.compile(r"\d+[KMGT]?")


@dataclass(frozen=True)
class SlurmConfig:
    """Options of each task, with the names of ``sbatch``. None leaves an option to the cluster.

    Args:
        partition: The partition; several are separated by commas.
        account: The account that is charged.
        qos: The quality of service.
        time: Time limit of a task: minutes, or a text such as "04:00:00" or "2-12".
        mem: Memory of a task: MiB, or with a unit, such as "4G".
        cpus_per_task: Cores of a task. One stack trains on one core.
        array_parallelism: The most tasks that run at the same time.
        signal_delay_s: Seconds before the time limit at which a task writes a checkpoint and returns to the queue.
        requeues: How many times a task returns to the queue, at its time limit or because its node failed.
        options: Other options of ``sbatch`` by name, such as ``{constraint: zen3, reservation: course}``.
    """

    partition: str | None
    account: str | None
    qos: str | None
    time: int | str
    mem: int | str | None
    cpus_per_task: int
    array_parallelism: int
    signal_delay_s: int
    requeues: int
    options: Mapping[str, Any]

    def __post_init__(self) -> None:
        for name, lowest in (("cpus_per_task", 1), ("array_parallelism", 1), ("signal_delay_s", 1), ("requeues", 0)):
            if getattr(self, name) < lowest:
                raise ValueError(f"{name}={getattr(self, name)}: must be >= {lowest}")
        if not TIME.fullmatch(str(self.time)) or self.time == 0:
            raise ValueError(f'time={self.time}: must be minutes, or a text such as "04:00:00" or "2-12"')
        if self.mem is not None and not MEMORY.fullmatch(str(self.mem)):
            raise ValueError(f"mem={self.mem}: must be MiB, or have a unit, such as 4G")
        for name, value in self.options.items():
            if not re.fullmatch(r"[a-z][a-z-]+", name) or not isinstance(value, str | int):
                raise ValueError(f"options.{name}={value}: must be an option of sbatch, such as constraint: zen3")

    def sbatch_options(self) -> dict[str, Any]:
        """Return the options as submitit takes them."""
        named = {name: getattr(self, name) for name in ("partition", "account", "qos", "mem", "cpus_per_task")}
        chosen = {name: value for name, value in named.items() if value is not None}
        chosen |= {"time": self.time, "signal_delay_s": self.signal_delay_s}
        return {**chosen, "additional_parameters": {"requeue": True, **self.options}}


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
