"""Settings of SLURM: each is in the job's script, and a wrong one is named. (`test_cluster` runs the jobs.)"""

from __future__ import annotations

import stat

import pytest

from kipoi_seq2exp.errors import ConfigError
from kipoi_seq2exp.prediction import cluster_access
from kipoi_seq2exp.prediction.cluster import parse_cluster

pytest.importorskip("distributed")

SETTINGS = """
cores: 4
memory: 6GB
jobs: 3
processes: 2
walltime: "00:45:00"
queue: long
account: genomics
extra: ["--gres=gpu:1", "--exclude=node[1-3]"]
prologue: [module load cuda]
interface: lo
python: /opt/env/bin/python
local_directory: /scratch
log_directory: {logs}
"""


def test_every_slurm_setting_is_in_the_job_script(tmp_path):
    (tmp_path / "slurm.yaml").write_text(SETTINGS.format(logs=tmp_path / "logs"))
    cluster = parse_cluster(str(tmp_path / "slurm.yaml"))
    assert cluster.slurm.jobs == 3
    (tmp_path / "keys").mkdir()
    with cluster.slurm.start(cluster_access.keys_of_a_run(tmp_path / "keys")) as started:
        script = started.job_script()
        keys = list((tmp_path / "keys").iterdir())
        assert len(keys) == 3
        assert {stat.S_IMODE(key.stat().st_mode) for key in keys} == {0o600}
    for line in (
        "#SBATCH -p long",
        "#SBATCH -A genomics",
        "#SBATCH --cpus-per-task=4",
        "#SBATCH --mem=6G",
        "#SBATCH -t 00:45:00",
        "#SBATCH --gres=gpu:1",
        "#SBATCH --exclude=node[1-3]",
        f"#SBATCH -o {tmp_path}/logs/",
        "\nmodule load cuda\n/opt/env/bin/python -m distributed.cli.dask_worker tls://127.0.0.1:",
        f"--tls-key {tmp_path}/keys/key.pem",
        "--nthreads 2 --memory-limit 2.79GiB --nworkers 2",
        "--local-directory /scratch",
        "--interface lo",
    ):
        assert line in script, script


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cores: 4", "the field 'memory' is missing"),
        ("cores: 4\nmemory: 1GB\nqeue: x", r"unknown field 'qeue' .did you mean 'queue'"),
        ("cores: many\nmemory: 1GB", "cores must be a whole number, found 'many'"),
        ("cores: 1\nmemory: 1GB\nprocesses: 2", r"processes .2. may not be more than the cores of a job .1."),
        ("cores: 1\nmemory: 1GB\njobs: 0", "jobs must be at least 1 and at most 10,000, found 0"),
        (f"cores: 1{'0' * 30}\nmemory: 1GB", "cores must be a whole number of at most 18 digits"),
        ("cores: 1\nmemory: lots", "memory: 'lots' is not an amount of memory"),
        (f"cores: 1\nmemory: '{'9' * 400}GB'", "memory: '9999+ ...' is not an amount of memory"),
        ("cores: 1\nmemory: 1000000TB", "memory must be between 1 MB and 1 PB, found 1000000TB"),
        ("cores: 1\nmemory: 1GB\nwalltime: tomorrow", "walltime must be as SLURM writes it.*found 'tomorrow'"),
        ("cores: 1\nmemory: 1GB\nwalltime: 4:00:00", "walltime must be a text, found 14400"),
        ('cores: 1\nmemory: 1GB\nqueue: "a\\n#SBATCH x"', "queue must be one word"),
        ("cores: 1\nmemory: 1GB\nextra: [gres=gpu:1]", "extra: expected an option of sbatch"),
    ],
)
def test_wrong_slurm_settings_are_named(tmp_path, text, words):
    (tmp_path / "slurm.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"slurm\.yaml: {words}"):
        parse_cluster(str(tmp_path / "slurm.yaml"))
