"""The launchers: shell that shellcheck passes, manifests that fit their schema, and what they start.

How launch/local.sh starts, names and ends processes is in tests/end_to_end/test_pods.py.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from jaxrec.config.loading import load_config
from jaxrec.config.schema import Config, Train
from jaxrec.config.validation import check

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "launch"
SHELL = sorted(p for p in LAUNCH.iterdir() if p.suffix in (".sh", ".sbatch"))
MANIFESTS = sorted((LAUNCH / "kubernetes").glob("*.yaml"))


@pytest.fixture(scope="module")
def schema():
    """See jobset_schema.py beside it for its source."""
    found = json.loads((Path(__file__).parent / "jobset.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(found)
    return jsonschema.Draft202012Validator(found)


@pytest.mark.parametrize("path", SHELL, ids=lambda p: p.name)
def test_shellcheck_passes_and_it_may_be_run(path):
    done = subprocess.run(
        [Path(sys.executable).with_name("shellcheck"), path], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert os.access(path, os.X_OK) and path.read_text().startswith("#!/usr/bin/env bash\n#")


def test_every_launcher_has_a_place_on_the_page():
    page = (LAUNCH / "README.md").read_text()
    files = [str(p.relative_to(LAUNCH)) for p in LAUNCH.rglob("*") if p.is_file() and p.name != "README.md"]
    assert len(files) >= 7 and [name for name in files if f"`{name}`" not in page] == []


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda p: p.name)
def test_manifests_fit_the_schema_of_a_jobset(path, schema):
    manifest = yaml.safe_load(path.read_text())
    schema.validate(manifest)
    manifest["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]["imag"] = (
        "x"
    )
    with pytest.raises(jsonschema.ValidationError, match="'imag' was unexpected"):
        schema.validate(manifest)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda p: p.name)
def test_manifests_start_again_what_was_preempted_and_give_it_time(path):
    spec = yaml.safe_load(path.read_text())["spec"]
    (job,) = spec["replicatedJobs"]
    job, name, jobset = (
        job["template"]["spec"],
        job["name"],
        yaml.safe_load(path.read_text())["metadata"]["name"],
    )
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    python, m, module, *arguments = container["command"]
    assert (python, m, module) == ("python", "-m", "jaxrec.train")
    config = configured(arguments)
    assert config.train.preempted_exit == 75
    by_code, by_condition = job["podFailurePolicy"]["rules"]
    assert by_code["action"] == by_condition["action"] == "FailJob"
    assert by_code["onExitCodes"] == {"containerName": container["name"], "operator": "In", "values": [75]}
    (rule,) = spec["failurePolicy"]["rules"]
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert pod["terminationGracePeriodSeconds"] > config.train.grace_seconds + Train().heartbeat_seconds
    assert pod["restartPolicy"] == "Never" and job["completionMode"] == "Indexed"
    assert job["parallelism"] == job["completions"]
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    (workdir,) = (a.removeprefix("--workdir=") for a in arguments if a.startswith("--workdir="))
    assert Path(workdir).parts[:2] == ("/", "runs") and "/runs" in mounts
    environment = {each["name"]: each for each in container["env"]}
    if "JAXREC_PROCESSES" in environment:  # else GKE says who the others are
        assert environment["JAXREC_PROCESSES"]["value"] == str(job["completions"])
        assert environment["JAXREC_COORDINATOR"]["value"] == f"{jobset}-{name}-0-0.{jobset}:12355"
        assert "completion-index" in str(environment["JAXREC_PROCESS"]["valueFrom"])


def configured(arguments: list[str]) -> Config:
    """The config that train's arguments make, checked."""
    (spec,) = (a.removeprefix("--config=") for a in arguments if a.startswith("--config="))
    config = load_config(str(ROOT / spec))
    for key, value in (a[len("--config.") :].split("=") for a in arguments if a.startswith("--config.")):
        part, field = key.split(".")
        kind = type(getattr(getattr(config, part), field))
        setattr(getattr(config, part), field, kind(value))
    check(config)
    return config


def stand_in(folder: Path, name: str, script: str) -> None:
    """A program of that name, first on the path of what is run with it; it notes its arguments."""
    path = folder / name
    path.write_text(f'#!/usr/bin/env bash\nprintf "%q " "$@" >>"$0.said"; echo >>"$0.said"\n{script}\n')
    path.chmod(0o755)


def run(folder: Path, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{folder}:{os.environ['PATH']}"
    return subprocess.run(
        [LAUNCH / script, *arguments], cwd=folder, env=os.environ | {"PATH": path} | environment,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize(
    "status, restarts, queued", [(75, 0, True), (75, 2, False), (1, 0, False), (0, 0, False)]
)
def test_slurm_queues_again_what_was_preempted(tmp_path, status, restarts, queued):
    stand_in(
        tmp_path, "srun", f"echo '{{\"step\": 7}}' >$JAXREC_REACHED/0.json; kill -TERM $PPID; exit {status}"
    )
    stand_in(tmp_path, "scontrol", "")
    environment = {
        "SLURM_JOB_ID": "12",
        "SLURM_RESTART_COUNT": str(restarts),
        "RESTARTS": "2",
        "PYTHON": "py",
    }
    done = run(tmp_path, "slurm.sbatch", "--config", "c d.py", **environment)
    assert done.returncode == status, done.stderr
    given = shlex.split((tmp_path / "srun.said").read_text())
    assert given[1:] == [
        "py", "-m", "jaxrec.train", "--config", "c d.py", "--config.train.preempted_exit=75"
    ]  # fmt: skip
    assert (tmp_path / "scontrol.said").exists() == queued
    if queued:
        assert (tmp_path / "scontrol.said").read_text().split() == ["requeue", "12"]
    assert ('{"step": 7}' in done.stderr) == (status != 0 and not queued)


def test_slurm_gives_a_step_its_own_signal_before_the_time_is_up():
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)=(.*)$", (LAUNCH / "slurm.sbatch").read_text(), re.M))
    name, seconds = asked["signal"].split("@")
    assert name == "TERM" and int(seconds) > Train().grace_seconds and asked["ntasks-per-node"] == "1"


def test_tpu_vms_train_on_every_host_with_the_arguments_as_they_were(tmp_path):
    stand_in(tmp_path, "gcloud", "")
    done = run(tmp_path, "tpu_vm.sh", "train", "slice", "us-x", "--config", "a b.py", "--config.name=it's")
    assert done.returncode == 0, done.stderr
    given = shlex.split((tmp_path / "gcloud.said").read_text())
    assert given[:5] == ["compute", "tpus", "tpu-vm", "ssh", "slice"] and "--worker=all" in given
    command = shlex.split(given[-1].replace("&&", " "))
    expected = ["-m", "jaxrec.train", "--hosts=auto", "--config", "a b.py", "--config.name=it's"]
    assert command[-6:] == expected
    assert run(tmp_path, "tpu_vm.sh", "install", "slice", "us-x").returncode == 0
    copied, installed = (tmp_path / "gcloud.said").read_text().splitlines()[1:]
    assert shlex.split(copied)[3] == "scp" and "pip" in installed and "constraints.txt" in installed
    assert run(tmp_path, "tpu_vm.sh", "train").returncode == 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["2", "--config", "c"], "2 is no option"),
        (["--processes", "2", "--config"], "--config is no option"),
        (["--processes"], "--processes has no value"),
        (["--processes", "2"], "no -- before the arguments of train"),
        (["--processes", "none", "--"], "--processes=none must be a whole number above 0"),
        (["--processes", "1", "--devices", "0", "--"], "--devices=0 must be a whole number above 0"),
    ],
)
def test_local_says_in_one_line_what_is_wrong(tmp_path, arguments, message):
    done = run(tmp_path, "local.sh", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}; usage: ") and done.stderr.count("\n") == 1


def test_the_image_holds_what_its_command_reads():
    lines = (LAUNCH / "Dockerfile").read_text().splitlines()
    copied = [name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]]
    assert {"jaxrec", "configs", "pyproject.toml", "constraints.txt", "README.md", "LICENSE"} == set(copied)
    assert all((ROOT / name).exists() for name in copied)
    assert any("-c constraints.txt" in line for line in lines)
