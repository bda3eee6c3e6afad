"""Manifests and scripts for clusters: they parse, agree with `launch.train`, and do with exit codes what they say."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from launch.serve import main as serve
from launch.train import EXIT_MISFIT, EXIT_NON_FINITE
from launch.train import main as train
from mmduplex_jax.serving.sockets import EXIT_S
from mmduplex_jax.train.distributed import EXIT_INTERRUPTED, EXIT_PREEMPTED

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "launch" / "cluster"
SCRIPTS = sorted(CLUSTER.glob("*.sh"))
JOBSETS = sorted(CLUSTER.glob("jobset_*.yaml"))
FINAL = (0, EXIT_MISFIT, EXIT_NON_FINITE, EXIT_INTERRUPTED)
RETRIED = (EXIT_PREEMPTED, 134, 137, 1)


def test_all_are_looked_at():
    looked_at = {path.name for path in (*SCRIPTS, *JOBSETS)} | {"serve.yaml", "haproxy.cfg"}
    assert looked_at == {path.name for path in CLUSTER.iterdir()}


def test_servers_and_what_stands_before_them_agree(tmp_path):
    """`haproxy -c` and streams through it: test_replicas.py."""
    manifest = list(yaml.safe_load_all((CLUSTER / "serve.yaml").read_text(encoding="utf-8")))
    by_name = {(one["kind"], one["metadata"]["name"]): one for one in manifest}
    servers, headless = by_name["StatefulSet", "serve"]["spec"], by_name["Service", "serve"]["spec"]
    pod = servers["template"]["spec"]
    [container] = pod["containers"]
    assert container["command"] == ["python", "-u", "-m", "launch.serve"]
    for name in ("token", "operator"):
        (tmp_path / name).write_text(f"the secret of more than 16 letters in {name}\n")
    args = [text.replace("$(REPLICA)", "serve-0").replace("/secrets", str(tmp_path)) for text in container["args"]]
    assert serve([*args, "--only_check_args"]) == 0
    # It is over before it is killed.
    flags = dict(argument.removeprefix("--").split("=", 1) for argument in args)
    over_s = float(flags["handover_notice_s"]) + float(flags["drain_s"]) + EXIT_S
    assert pod["terminationGracePeriodSeconds"] > over_s
    # The folder is on the volume that all share; every probe asks for what there is.
    assert flags["handover_dir"].startswith("/shared/")
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert {container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness")} == {"/healthz"}
    # HAProxy has a line for each pod, by the name with which its streams' ids begin.
    config = (CLUSTER / "haproxy.cfg").read_text(encoding="utf-8")
    pods = [f"serve-{i}" for i in range(servers["replicas"])]
    # (Whole names: HAProxy's own resolver searches no domains.)
    addresses = [(pod, f"{pod}.serve.default.svc.cluster.local:8080") for pod in pods]
    assert re.findall(r"^ +server (\S+) (\S+)$", config, re.MULTILINE) == addresses
    rule = r"use-server (\S+) if \{ url_param\(session\) -m beg (\S+)\. \} \|\| \{ path_beg /v1/sessions/(\S+)\. \}"
    assert re.findall(rule, config) == [(pod, pod, pod) for pod in pods]
    assert servers["serviceName"] == by_name["Service", "serve"]["metadata"]["name"]
    assert (headless["clusterIP"], headless["publishNotReadyAddresses"]) == ("None", True)
    # HAProxy knows that a replica drains before it hands its streams over.
    every_s, times = re.search(r"inter (\d+)ms fall (\d+)", config).groups()
    assert int(every_s) * int(times) / 1000 < float(flags["handover_notice_s"])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_sound(script):
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", script], check=True)


@pytest.mark.parametrize("path", JOBSETS, ids=lambda path: path.name)
def test_jobsets_say_what_the_training_means(path, monkeypatch):
    """The fields of jobset.x-k8s.io/v1alpha2 and batch/v1 that matter here, and the flags of `launch.train`."""
    jobset = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    [rule] = jobset["spec"]["failurePolicy"]["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] > 0
    [worker] = jobset["spec"]["replicatedJobs"]
    job = worker["template"]["spec"]
    assert job["completionMode"] == "Indexed"
    assert job["backoffLimit"] == 0
    assert job["parallelism"] == job["completions"]
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # as podFailurePolicy demands
    [container] = pod["containers"]
    [rule] = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"] == {
        "containerName": container["name"],
        "operator": "In",
        "values": [EXIT_MISFIT, EXIT_NON_FINITE],
    }
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}

    flags = [argument.replace("$(PROCESS_ID)", "0") for argument in container["args"]]
    assert container["command"] == ["python", "-u", "-m", "launch.train"]
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit, match="^0$"):
        train([*flags, "--only_check_args"])
    if "--distributed" not in flags:
        network = jobset["spec"]["network"]
        host = f"{jobset['metadata']['name']}-{worker['name']}-0-0.{network['subdomain']}"
        port = container["ports"][0]["containerPort"]
        assert network["enableDNSHostnames"]
        assert {f"--coordinator={host}:{port}", f"--num_processes={job['completions']}"} <= set(flags)


def program(folder: Path, name: str, body: str) -> None:
    """A program of this name that stands in for one of the cluster's."""
    path = folder / name
    path.write_text(f'#!/usr/bin/env bash\necho "{name} $*" >> "{folder}/calls"\n{body}\n', encoding="utf-8")
    path.chmod(0o755)


def run(script: str, *arguments: str, programs: Path, **environment: str) -> tuple[int, list[str]]:
    """Exit code of a script, and the calls of the programs that stand in."""
    known = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", **environment}
    done = subprocess.run([CLUSTER / script, *arguments], env=known, capture_output=True, text=True, timeout=300)
    return done.returncode, (programs / "calls").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("code", [*FINAL, *RETRIED])
def test_slurm_starts_again_what_may_go_on(tmp_path, code):
    program(tmp_path, "srun", f"exit {code}")
    program(tmp_path, "scontrol", "exit 0")
    known = {"SLURM_JOB_ID": "7", "VIRTUAL_ENV": "/venv"}
    found, calls = run("slurm.sh", "--config=a b.py", programs=tmp_path, **known)
    assert calls[0].endswith("/venv/bin/python -u -m launch.train --distributed --config=a b.py")
    assert calls[1:] == ([] if code in FINAL else ["scontrol requeue 7"])
    assert found == (code if code in FINAL else 0)
    (tmp_path / "calls").unlink()
    found, calls = run("slurm.sh", programs=tmp_path, SLURM_RESTART_COUNT="20", **known)
    assert (found, len(calls)) == (code, 1)


def test_tpu_vms_are_asked_for_again_when_they_are_taken_away(tmp_path):
    states = tmp_path / "states"
    states.write_text("\n".join(["NONE", "PROVISIONING", "ACTIVE", "SUSPENDED", "NONE", "ACTIVE"]) + "\n")
    codes = tmp_path / "codes"
    codes.write_text(f"{EXIT_PREEMPTED}\n0\n")
    take = lambda file: f'head -n 1 "{file}"; sed -i 1d "{file}"'
    program(
        tmp_path,
        "gcloud",
        f'case "$*" in *"describe"*) [ "$(head -n 1 "{states}")" = NONE ] && {{ sed -i 1d "{states}"; exit 1; }}; '
        f'{take(states)} ;; *"cat ~/mmduplex.exit"*) {take(codes)} ;; esac',
    )
    known = {"ZONE": "z", "TYPE": "v5litepod-16", "RUNTIME": "r", "SOURCE": "s", "MOUNT": "true", "POLL_S": "0"}
    found, calls = run("tpu_vm.sh", "me", "--config=x", programs=tmp_path, **known)
    assert found == 0
    kinds = [next(word for word in call.split() if word in {"describe", "create", "delete", "ssh"}) for call in calls]
    once = ["ssh", "ssh", "ssh"]  # install, train, how it ended
    first = ["describe", "create", "describe", "describe", *once]
    assert kinds == [*first, "describe", "delete", "describe", "create", "describe", *once]
    assert any("-m launch.train --distributed --config=x" in call and "--worker=all" in call for call in calls)


def test_tpu_vm_without_arguments_explains_itself():
    done = subprocess.run([CLUSTER / "tpu_vm.sh"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout.startswith("A training on Cloud TPU VMs")
