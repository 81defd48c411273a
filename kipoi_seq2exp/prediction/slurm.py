"""SLURM jobs that predict: from the settings that a user writes to the jobs that dask-jobqueue submits.

Contract: every field of the YAML file is checked by name and type before anything is computed, and SLURM looks at the
job before it is submitted.
"""

from __future__ import annotations

import re
import socket
import subprocess
import tempfile
from dataclasses import dataclass
from typing import Any

from kipoi_seq2exp.errors import ClusterError, ConfigError, excerpt
from kipoi_seq2exp.prediction.batches import parse_bytes
from kipoi_seq2exp.settings import suggest

FREE_PORT = "127.0.0.1:0"  # port of Dask's status page: no clash with another run's
MOST = {"cores": 10_000, "jobs": 10_000, "processes": 10_000}
MEMORY_BYTES = (1 << 20, 1 << 50)  # of a job, at least and at most
# minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes, days-hours:minutes:seconds
_WALLTIME = re.compile(r"[0-9]{1,6}(:[0-9]{2}){0,2}|[0-9]{1,4}-[0-9]{1,2}(:[0-9]{2}){0,2}")
_WORD = re.compile(r"[^\s\x00-\x1f\x7f]+")


@dataclass(frozen=True)
class SlurmSettings:
    """The settings of a SLURM job and the number of jobs, from the YAML file; used for dask_jobqueue.SLURMCluster.

    Attributes
    ----------
    cores : int
        CPU cores of a job.
    memory : str
        Memory of a job, e.g. "8GB".
    jobs : int
        How many jobs; a lost one is replaced.
    processes : int
        Workers of a job, which share its cores and its memory.
    walltime : str
        Time limit of a job, as SLURM writes it; after it the run goes on in new jobs.
    queue, account : str or None
        Partition and account.
    extra : tuple of str
        Further options of sbatch, e.g. "--gres=gpu:1".
    prologue : tuple of str
        Shell lines that a job runs first, e.g. "module load cuda".
    interface : str or None
        Network interface that the jobs can reach, e.g. "ib0".
    python : str or None
        Python of the jobs; by default the one that runs the command.
    local_directory, log_directory : str or None
        Fast local disk of the jobs; where SLURM puts their output.
    keys_directory : str or None
        Where the keys of the run, which the jobs read, lie while it lasts; by default in the user's cache.
    """

    cores: int
    memory: str
    jobs: int = 1
    processes: int = 1
    walltime: str = "04:00:00"
    queue: str | None = None
    account: str | None = None
    extra: tuple[str, ...] = ()
    prologue: tuple[str, ...] = ()
    interface: str | None = None
    python: str | None = None
    local_directory: str | None = None
    log_directory: str | None = None
    keys_directory: str | None = None

    def __post_init__(self) -> None:
        for name, most in MOST.items():
            value = getattr(self, name)
            if not 1 <= value <= most:
                raise ConfigError(f"{name} must be at least 1 and at most {most:,}, found {excerpt(value)}.")
        if self.processes > self.cores:
            raise ConfigError(f"processes ({self.processes}) may not be more than the cores of a job ({self.cores}).")
        self._check_texts()

    def _check_texts(self) -> None:
        """Check the texts that SLURM and a shell will read: their form, and that each is one word where it must be."""
        try:
            memory = parse_bytes(self.memory)
        except ConfigError as error:
            raise ConfigError(f"memory: {error}") from None
        if not MEMORY_BYTES[0] <= memory <= MEMORY_BYTES[1]:
            raise ConfigError(f"memory must be between 1 MB and 1 PB, found {excerpt(self.memory)}.")
        if not _WALLTIME.fullmatch(self.walltime):
            raise ConfigError(
                f"walltime must be as SLURM writes it, e.g. 04:00:00 or 2-12:00:00, found '{excerpt(self.walltime)}'."
            )
        for name in ("queue", "account", "interface", "python", "local_directory", "log_directory", "keys_directory"):
            value = getattr(self, name)
            if value is not None and not _WORD.fullmatch(value):
                raise ConfigError(f"{name} must be one word, found {excerpt(value)!r}.")
        for option in self.extra:
            if not option.startswith("-") or not option.isprintable():
                raise ConfigError(
                    f"extra: expected an option of sbatch such as --gres=gpu:1, found {excerpt(option)!r}."
                )

    def start(self, security: Any) -> Any:
        """Return the dask_jobqueue.SLURMCluster of these settings, with no job yet.

        Parameters
        ----------
        security : distributed.Security
            The keys of the run, in files that the jobs can read.

        Raises
        ------
        ConfigError
            If this machine has no such network interface.
        """
        import dask_jobqueue

        present = [name for _, name in socket.if_nameindex()]
        if self.interface is not None and self.interface not in present:
            raise ConfigError(f"interface: this machine has no '{self.interface}'{suggest(self.interface, present)}.")
        return dask_jobqueue.SLURMCluster(
            cores=self.cores,
            memory=self.memory,
            processes=self.processes,
            walltime=self.walltime,
            queue=self.queue,
            account=self.account,
            job_extra_directives=list(self.extra),
            job_script_prologue=list(self.prologue),
            interface=self.interface,
            python=self.python,
            local_directory=self.local_directory,
            log_directory=self.log_directory,
            scheduler_options={"dashboard_address": FREE_PORT},
            worker_extra_args=["--no-dashboard"],
            security=security,
        )

    def check(self, job_script: str) -> None:
        """Have SLURM check the job's script: Dask submits it in the background, where a refusal would go unnoticed.

        Raises
        ------
        ClusterError
            If SLURM is not here or refuses the job.
        """
        with tempfile.NamedTemporaryFile("w", suffix=".sh") as script:
            script.write(job_script)
            script.flush()
            command = ["sbatch", "--test-only", script.name]
            try:
                tried = subprocess.run(command, capture_output=True, text=True, check=False)
            except OSError as error:
                raise ClusterError(
                    f"sbatch cannot be run ({error.strerror}): run this on a machine that can submit SLURM jobs."
                ) from None
        if tried.returncode:
            reason = " ".join((tried.stderr or tried.stdout).split()).rstrip(".")
            raise ClusterError(f"SLURM refuses a job with these settings ({reason}): change them.")
