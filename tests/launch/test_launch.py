"""The launchers: shellcheck, manifests against their schema, and started commands.

tests/end_to_end/test_pods.py tests how launch/local.sh starts, names and ends processes.
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
SHELL = [
    *sorted(p for p in LAUNCH.iterdir() if p.suffix in (".sh", ".sbatch")),
    ROOT / "docs/walk.sh",
    *sorted(p for p in (ROOT / "tests/engines").glob("*.sh") if p.name != "lib.sh"),  # read by the others
]
ENGINES = sorted((ROOT / "tests/engines").glob("*.sh"))
MANIFESTS = sorted((LAUNCH / "kubernetes").glob("*.yaml"))


@pytest.fixture(scope="module")
def schema():
    """Validator of JobSets; jobset_schema.py generates the schema."""
    schema_json = json.loads((Path(__file__).parent / "jobset.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema_json)
    return jsonschema.Draft202012Validator(schema_json)


@pytest.mark.parametrize("path", SHELL, ids=lambda p: p.name)
def test_shellcheck_passes_and_script_is_executable(path):
    process = subprocess.run(
        [Path(sys.executable).with_name("shellcheck"), "-x", path], capture_output=True, text=True, timeout=60
    )
    assert (process.returncode, process.stdout) == (0, "")
    assert os.access(path, os.X_OK) and path.read_text().startswith("#!/usr/bin/env bash\n#")


def test_shellcheck_passes_for_the_scripts_of_real_engines():
    command = [Path(sys.executable).with_name("shellcheck"), "-x", *(p.relative_to(ROOT) for p in ENGINES)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert len(ENGINES) >= 4 and (process.returncode, process.stdout) == (0, "")


def test_readme_names_every_launcher():
    page = (LAUNCH / "README.md").read_text()
    files = [str(p.relative_to(LAUNCH)) for p in LAUNCH.rglob("*") if p.is_file() and p.name != "README.md"]
    assert len(files) >= 7 and [name for name in files if f"`{name}`" not in page] == []


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda p: p.name)
def test_manifests_are_valid_jobsets(path, schema):
    manifest = yaml.safe_load(path.read_text())
    schema.validate(manifest)
    manifest["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]["imag"] = (
        "x"
    )
    with pytest.raises(jsonschema.ValidationError, match="'imag' was unexpected"):
        schema.validate(manifest)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda p: p.name)
def test_manifests_restart_preempted_jobs_after_a_grace_period(path):
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
    config = parse_config(arguments)
    assert config.train.preemption_exit_code == 75
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
    environment = {variable["name"]: variable for variable in container["env"]}
    if "JAXREC_PROCESSES" in environment:  # otherwise GKE provides the addresses
        assert environment["JAXREC_PROCESSES"]["value"] == str(job["completions"])
        assert environment["JAXREC_COORDINATOR"]["value"] == f"{jobset}-{name}-0-0.{jobset}:12355"
        assert "completion-index" in str(environment["JAXREC_PROCESS"]["valueFrom"])


def parse_config(arguments: list[str]) -> Config:
    """Return the config of the arguments of train, checked."""
    (spec,) = (a.removeprefix("--config=") for a in arguments if a.startswith("--config="))
    config = load_config(str(ROOT / spec))
    for key, value in (a[len("--config.") :].split("=") for a in arguments if a.startswith("--config.")):
        section, field = key.split(".")
        kind = type(getattr(getattr(config, section), field))
        setattr(getattr(config, section), field, kind(value))
    check(config)
    return config


def stand_in(folder: Path, name: str, script: str) -> None:
    """Write a program `name` that records its arguments and is first on the PATH."""
    path = folder / name
    path.write_text(f'#!/usr/bin/env bash\nprintf "%q " "$@" >>"$0.args"; echo >>"$0.args"\n{script}\n')
    path.chmod(0o755)


def run(
    folder: Path, script: str, *arguments: str, limit: int = 60, **environment: str
) -> subprocess.CompletedProcess[str]:
    path = f"{folder}:{os.environ['PATH']}"
    return subprocess.run(
        [LAUNCH / script, *arguments], cwd=folder, env=os.environ | {"PATH": path} | environment,
        capture_output=True, text=True, timeout=limit,
    )  # fmt: skip


@pytest.mark.parametrize(
    "status, restarts, queued", [(75, 0, True), (75, 2, False), (1, 0, False), (0, 0, False)]
)
def test_slurm_requeues_preempted_jobs(tmp_path, status, restarts, queued):
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
    process = run(tmp_path, "slurm.sbatch", "--config", "c d.py", **environment)
    assert process.returncode == status, process.stderr
    recorded = shlex.split((tmp_path / "srun.args").read_text())
    assert recorded[1:] == [
        "py", "-m", "jaxrec.train", "--config", "c d.py", "--config.train.preemption_exit_code=75"
    ]  # fmt: skip
    assert (tmp_path / "scontrol.args").exists() == queued
    if queued:
        assert (tmp_path / "scontrol.args").read_text().split() == ["requeue", "12"]
    assert ('{"step": 7}' in process.stderr) == (status != 0 and not queued)


def test_slurm_says_that_it_cannot_requeue_a_job_that_slurm_has_requeued(tmp_path):
    """After `scontrol requeue` by an administrator; the message is that of Slurm 22.05."""
    stand_in(tmp_path, "srun", "exit 75")
    stand_in(tmp_path, "scontrol", "echo 'Job is pending execution for job 12' >&2; exit 1")
    process = run(tmp_path, "slurm.sbatch", SLURM_JOB_ID="12")
    assert process.returncode == 75 and "queued again" not in process.stdout
    assert "Slurm has done so itself; otherwise submit it again, and it resumes" in process.stdout


def test_slurm_signals_a_step_before_the_time_limit():
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)=(.*)$", (LAUNCH / "slurm.sbatch").read_text(), re.M))
    name, seconds = options["signal"].split("@")
    assert name == "TERM" and int(seconds) > Train().grace_seconds and options["ntasks-per-node"] == "1"


def test_tpu_vms_train_on_all_hosts_with_unchanged_arguments(tmp_path):
    stand_in(tmp_path, "gcloud", "")
    process = run(tmp_path, "tpu_vm.sh", "train", "slice", "us-x", "--config", "a b.py", "--config.name=it's")
    assert process.returncode == 0, process.stderr
    recorded = shlex.split((tmp_path / "gcloud.args").read_text())
    assert recorded[:5] == ["compute", "tpus", "tpu-vm", "ssh", "slice"] and "--worker=all" in recorded
    command = shlex.split(recorded[-1].replace("&&", " "))
    expected = ["-m", "jaxrec.train", "--hosts=auto", "--config", "a b.py", "--config.name=it's"]
    assert command[-6:] == expected
    assert run(tmp_path, "tpu_vm.sh", "install", "slice", "us-x").returncode == 0
    copied, installed = (tmp_path / "gcloud.args").read_text().splitlines()[1:]
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
def test_local_reports_errors_in_one_line(tmp_path, arguments, message):
    process = run(tmp_path, "local.sh", *arguments)
    assert process.returncode == 2
    assert process.stderr.startswith(f"error: {message}; usage: ") and process.stderr.count("\n") == 1


def test_gpu_refuses_a_wrong_option_in_one_line(tmp_path):
    process = run(tmp_path, "gpu.sh", "--fast")
    assert process.returncode == 2
    assert (
        process.stderr.startswith("error: --fast is no option; usage: ") and process.stderr.count("\n") == 1
    )


@pytest.mark.slow
def test_gpu_ends_on_a_cpu_in_a_rehearsal(tmp_path):
    process = run(
        tmp_path, "gpu.sh", "--quick", "--rehearse", str(tmp_path / "out"), limit=1800, PYTHON=sys.executable
    )
    assert process.returncode == 0, process.stdout[-2000:]
    assert process.stdout.endswith("gpu.sh: all stages ended\n")


def test_image_contains_the_files_of_its_command():
    lines = (LAUNCH / "Dockerfile").read_text().splitlines()
    copied = [name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]]
    constraints = {"constraints.txt", "constraints-py312.txt"}
    assert constraints | {"jaxrec", "configs", "pyproject.toml", "README.md", "LICENSE"} == set(copied)
    assert all((ROOT / name).exists() for name in copied)
    assert any("-c constraints.txt" in line for line in lines)
