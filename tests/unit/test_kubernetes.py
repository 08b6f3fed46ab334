"""Manifests that the clusters' schemas take, whose strings mean what they meant, and whose pods find their place."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from launcher.accelerators import detect
from launcher.clusters import environment
from launcher.clusters.kubernetes import document
from launcher.clusters.kubernetes import manifest as manifests
from launcher.clusters.kubernetes.pod import Mount, Pod, job_name, resource_of
from launcher.errors import LaunchError
from launcher.machine.nodes import Nodes
from launcher.planning import decide, plan
from launcher.recipe import load

SCHEMAS = Path(__file__).parent / "fixtures" / "schemas"
KINDS = {"pytorchjob": "pytorchjob.yaml", "volcano": "volcano-job.yaml"}
K8S_VERSIONS = ("1.25", "1.31", "1.37")
POD = Pod(image="registry/train:1", mounts=(Mount("models", "/models", True), Mount("/nfs/runs", "/runs")))
FULL = replace(
    POD,
    namespace="team",
    shm_gib=8,
    cpu="32",
    memory="200Gi",
    env={"HF_HOME": "/models/hub"},
    secrets={"HF_TOKEN": ("hub", "token")},
    node_selector={"accelerator-type": "module-910b-8"},
    labels={"ring-controller.atlas": "ascend-910b"},
    workdir="/work",
    cann="/usr/local/Ascend/cann/set_env.sh",
    host_network=True,
    queue="research",
)
AWKWARD = [
    "plain",
    "with space",
    "quote'\"",
    "$(touch pwned)",
    "$(HOME)",
    "$$",
    "$",
    "a$$(b)",
    "中文",
    "new\nline\n",
    " lead",
    "trail ",
    "tab\t",
    "-dash",
    "- item",
    "key: value",
    "#c",
    "a #c",
    "{}",
    "[1]",
    "&a",
    "*a",
    "!!int 3",
    "%TAG",
    "@x",
    "`x`",
    "|",
    ">",
    "?",
    "",
    "~",
    "null",
    "yes",
    "No",
    "on",
    "y",
    "1e3",
    "0x1F",
    "0o17",
    "017",
    "1_000",
    "12:30:45",
    ".inf",
    "NaN",
    "2026-11-24",
    "3.0",
    "+1",
    "=",
    "<<",
    "---",
    "...",
    "\x85",
    "\u2028",
    "\u00a0",
    "\ufeff",
    "a\\nb",
    "\x7f",
    "\x1b",
    "emoji 🙂",
    "a\r\nb",
    "\n",
    "  \n x",
    "end\\",
]


def make(
    path: Path, *, nodes: int = 2, npu: int = 8, chip: str = "910B3", hbm: int | None = None, grace: float = 60.0
) -> plan.Plan:
    where = Nodes(nodes, 0, "first:29400" if nodes > 1 else None)
    cluster = detect.assumed(npu or 1, where, chip, hbm)
    cluster = cluster if npu else replace(cluster, device="cpu", devices=())
    options = plan.Options(nproc=npu or 2, supervision=plan.Supervision(grace_s=grace))
    return decide.make(load.load(path, ["parallel.global_batch_size=240"], {}), cluster, options, {"hidden_size": 64})


def manifest(
    made: plan.Plan,
    kind: Any,
    pod: Pod = POD,
    argv: tuple[str, ...] = ("ascend-launch", "run"),
    files: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """As a cluster reads it: through the text."""
    documents = manifests.manifest(kind, made, pod, "bert", files or {"bert.yaml": "model: {}\n"}, argv)
    return list(yaml.safe_load_all(document.text(documents)))


def templates(job: Mapping[str, Any]) -> list[dict[str, Any]]:
    if job["kind"] == "Job":
        return [task["template"] for task in job["spec"]["tasks"]]
    return [replica["template"] for replica in job["spec"]["pytorchReplicaSpecs"].values()]


def container(job: Mapping[str, Any]) -> dict[str, Any]:
    (only,) = templates(job)[0]["spec"]["containers"]
    return only


@pytest.mark.parametrize("nodes", [1, 2, 5])
@pytest.mark.parametrize("pod", [POD, FULL], ids=["plain", "full"])
@pytest.mark.parametrize("kind", KINDS)
def test_schemas_take_the_manifest(recipe: Callable[..., Path], kind: Any, pod: Pod, nodes: int):
    """The operators' own fields, and Kubernetes' for the recipe's ConfigMap and the pods, where no unknown key passes."""
    config, job = manifest(make(recipe(), nodes=nodes), kind, pod)
    jsonschema.Draft202012Validator(yaml.safe_load((SCHEMAS / KINDS[kind]).read_text())).validate(job)

    for version in K8S_VERSIONS:
        kubernetes_validate.validate(config, version, strict=True)
        for template in templates(job):
            metadata = {"name": "pod", **template["metadata"]}
            kubernetes_validate.validate(
                {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]},
                version,
                strict=True,
            )


def test_the_schemas_refuse_what_is_wrong(recipe: Callable[..., Path]):
    """So that the test above can fail."""
    for kind, name in KINDS.items():
        _, job = manifest(make(recipe()), kind)  # type: ignore[arg-type]
        job["spec"]["typo"] = 1
        with pytest.raises(jsonschema.ValidationError, match="typo"):
            jsonschema.validate(job, yaml.safe_load((SCHEMAS / name).read_text()))
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": templates(job)[0]["spec"]}
        pod["spec"]["containers"][0]["volumeMount"] = []
        with pytest.raises(kubernetes_validate.ValidationError, match="volumeMount"):
            kubernetes_validate.validate(pod, "1.31", strict=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pod_gets_its_cards_memory_and_mounts(recipe: Callable[..., Path], kind: Any):
    """One pod a node, one card a rank; shared memory that a DataLoader fits into; every mount has its volume."""
    _, job = manifest(make(recipe(), nodes=3), kind, FULL)
    spec_ = templates(job)[0]["spec"]
    only = container(job)
    volumes = {v["name"]: v for v in spec_["volumes"]}
    by_path = {m["mountPath"]: (volumes[m["name"]], m.get("readOnly", False)) for m in only["volumeMounts"]}

    assert (
        {"cpu": "32", "memory": "200Gi", "huawei.com/Ascend910": 8}
        == only["resources"]["limits"]
        == only["resources"]["requests"]
    )
    assert {"medium": "Memory", "sizeLimit": "8Gi"} == by_path["/dev/shm"][0]["emptyDir"]
    assert ({"claimName": "models", "readOnly": True}, True) == (
        by_path["/models"][0]["persistentVolumeClaim"],
        by_path["/models"][1],
    )
    assert ({"path": "/nfs/runs"}, False) == (by_path["/runs"][0]["hostPath"], by_path["/runs"][1])
    driver, tool = (by_path[p][0]["hostPath"] for p in ("/usr/local/Ascend/driver", "/usr/local/bin/npu-smi"))
    assert ({"path": "/usr/local/Ascend/driver", "type": "Directory"}, "File") == (driver, tool["type"])
    assert {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}} in only["env"]
    assert {"accelerator-type": "module-910b-8"} == spec_["nodeSelector"]
    assert len(volumes) == len(spec_["volumes"])


def test_two_jobs_share_a_hosts_network(recipe: Callable[..., Path]):
    """The operator's port would be the same for both, and Kubernetes lets one pod of a host have it."""
    made = make(recipe(), nodes=2)
    (port,) = container(manifest(made, "pytorchjob", FULL)[1])["ports"]
    alone = container(manifest(made, "pytorchjob", replace(FULL, host_network=False))[1])

    assert ("pytorchjob-port", True) == (port["name"], 20000 <= port["containerPort"] < 30000)
    assert "ports" not in alone


@pytest.mark.parametrize("kind", KINDS)
def test_a_pod_that_is_evicted_saves_and_the_job_goes_on(recipe: Callable[..., Path], kind: Any):
    """It has the ranks' grace and more before it is killed, and 143, saved, starts the job again; 1 ends it."""
    _, job = manifest(make(recipe(), grace=200), kind)

    assert {260} == {t["spec"]["terminationGracePeriodSeconds"] for t in templates(job)}
    if kind == "volcano":
        first_fit = {str(p.get("exitCode", p.get("event"))): p["action"] for p in job["spec"]["policies"]}
        assert ["143", "PodEvicted", "PodFailed"] == list(first_fit)
        assert ["RestartJob", "RestartJob", "AbortJob"] == list(first_fit.values())
    else:
        # Exit codes of 128 and above are the ones that ExitCode starts again.
        assert {"ExitCode"} == {r["restartPolicy"] for r in job["spec"]["pytorchReplicaSpecs"].values()}


def test_cpu_pods_ask_for_no_cards(recipe: Callable[..., Path]):
    _, job = manifest(make(recipe(), npu=0), "pytorchjob")

    assert "resources" not in container(job)
    assert not any("Ascend/driver" in m["mountPath"] for m in container(job)["volumeMounts"])


@pytest.mark.parametrize(
    ("chip", "resource"),
    [("910A", "huawei.com/Ascend910"), ("910B2", "huawei.com/Ascend910"), ("Ascend910_9391", "huawei.com/Ascend910")],
)
def test_every_chip_that_trains_has_one_name_in_the_cluster(recipe: Callable[..., Path], chip: str, resource: str):
    """MindCluster's device plugin tells the 910 families apart by labels, not by the resource."""
    assert resource == resource_of(make(recipe(), chip=chip))


def test_a_chip_without_a_known_name_needs_one(recipe: Callable[..., Path]):
    made = make(recipe(), chip="950PR", hbm=128)

    with pytest.raises(LaunchError, match="950PR") as error:
        manifest(made, "volcano")
    assert "--resource" in error.value.hint
    assert (
        8
        == container(manifest(made, "volcano", replace(POD, resource="huawei.com/npu"))[1])["resources"]["limits"][
            "huawei.com/npu"
        ]
    )


def expanded(word: str, env: Mapping[str, str]) -> str:
    """What Kubernetes makes of a word of command, args or env (third_party/forked/golang/expansion): `$$` is a dollar,
    `$(NAME)` a variable where it is known."""
    return re.sub(r"\$(?:\$|\(([^)]*)\))", lambda m: "$" if m[1] is None else env.get(m[1], m[0]), word)


@pytest.mark.parametrize("word", AWKWARD, ids=ascii)
def test_every_string_reaches_the_pod_as_it_was(recipe: Callable[..., Path], word: str):
    """Through YAML and through Kubernetes' own replacement, in words, variables, labels of volumes and files."""
    pod = replace(POD, env={"X": word}, workdir=f"/{word}")
    config, job = manifest(make(recipe()), "pytorchjob", pod, ("ascend-launch", "run", "--", word), {word or "x": word})
    only = container(job)

    assert word == expanded(only["args"][-1], {"HOME": "/root", "b": "no"})
    assert word == expanded(only["env"][0]["value"], {"HOME": "/root"})
    assert [word] == list(config["data"].values())
    assert f"/{word}" == only.get("workingDir")


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here (Debian package kubernetes-client)")
def test_kubectl_reads_the_same_strings(recipe: Callable[..., Path], tmp_path: Path):
    """Its YAML parser is another one, with other ideas of what is a number."""
    files = {f"f{i}": word for i, word in enumerate(AWKWARD)}
    documents = manifests.manifest(
        "pytorchjob", make(recipe()), replace(POD, env={"X": "1e3"}), "bert", files, ("a", *AWKWARD)
    )
    (tmp_path / "job.yaml").write_text(document.text(documents), encoding="utf-8")
    argv = ["kubectl", "annotate", "--local", "-f", str(tmp_path / "job.yaml"), "a=b", "-o", "json"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert 0 == done.returncode, done.stderr
    read, rest, found = json.JSONDecoder(), done.stdout.strip(), {}
    while rest:
        value, end = read.raw_decode(rest)
        found[value["kind"]], rest = value, rest[end:].strip()

    assert documents[0]["data"] == found["ConfigMap"]["data"]
    assert documents[1]["spec"] == found["PyTorchJob"]["spec"]


@pytest.mark.parametrize("word", [w for w in AWKWARD if "\0" not in w], ids=ascii)
def test_words_pass_bash_where_cann_is_sourced(recipe: Callable[..., Path], tmp_path: Path, word: str):
    """They are bash's arguments, not part of its script: the container's command is run here as it would be there."""
    set_env = tmp_path / "set env's.sh"
    set_env.write_text("export FROM_CANN=yes\n")
    shown = "import json, os, sys; print(json.dumps([os.environ['FROM_CANN'], *sys.argv[1:]]))"
    _, job = manifest(make(recipe()), "volcano", replace(POD, cann=str(set_env)), ("python3", "-c", shown, word))
    argv = [expanded(w, {}) for w in (*container(job)["command"], *container(job)["args"])]
    done = subprocess.run(argv, capture_output=True, timeout=30)

    assert ["yes", word] == json.loads(done.stdout), done.stderr


@pytest.mark.parametrize(
    "wanted", [*AWKWARD, "x" * 200, "UPPER", "1digit", "a.b", "end-", "-start", "ok-name"], ids=lambda w: ascii(w)[:20]
)
def test_names_of_jobs_are_names_for_pods_and_services_too(wanted: str):
    """A DNS-1035 label with room for `-worker-` and a number; a good name stays; two that differ stay apart."""
    name = job_name(wanted)

    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) and len(f"{name}-worker-99999") <= 63
    assert name != job_name(wanted + "x")
    assert "ok-name" == job_name("ok-name")


def test_no_secret_stands_in_a_manifest(recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch):
    """Neither from the environment nor from --env."""
    monkeypatch.setenv("HF_TOKEN", "hf_verysecretindeed")

    assert "hf_very" not in document.text(manifest(make(recipe()), "volcano", FULL))
    with pytest.raises(LaunchError, match="must not stand in a manifest"):
        manifest(make(recipe()), "volcano", replace(POD, env={"WANDB_API_KEY": "x"}))


@pytest.mark.parametrize("text", ["results", "results:data", ":/x", "Bad_Claim:/x", "a:/x:rw", "a:b:/x"])
def test_mounts_that_are_none_are_refused(text: str):
    with pytest.raises(LaunchError, match="is not CLAIM:/path or /host/path:/path"):
        Mount.parse(text)


@pytest.mark.parametrize(
    ("image", "good"),
    [
        ("train", True),
        ("train:1", True),
        ("registry/train:1", True),
        ("localhost:5000/a/b_c/d--e:V1.0-x_y", True),
        ("swr.cn-north-4.myhuaweicloud.com/Team/train:1", False),
        ("REGISTRY.example/train", True),
        ("train:", False),
        ("train@sha256:" + "a" * 64, True),
        ("train:1@sha256:" + "a" * 64, True),
        ("train@sha256:abc", False),
        ("a/" * 130 + "b", False),
        ("", False),
        ("Train", False),
        ("-train", False),
        ("a//b", False),
        ("a b", False),
        ("train:1\n", False),
        ("[fd00::1]:5000/train", True),
        ("https://registry/train", False),
        ("a___b", False),
        ("train:" + "x" * 129, False),
    ],
)
def test_images_are_references(recipe: Callable[..., Path], image: str, good: bool):
    """github.com/distribution/reference."""
    assert good == is_taken(recipe, image=image)


@pytest.mark.parametrize(
    ("memory", "good"),
    [
        ("200Gi", True),
        ("200G", True),
        ("1.5Ti", True),
        ("2e11", True),
        ("2E11", True),
        ("200000000000", True),
        ("+200Gi", True),
        (".5Gi", True),
        ("5.Gi", True),
        ("200GB", False),
        ("200gi", False),
        ("200 Gi", False),
        ("200", False),
        ("200m", False),
        ("-200Gi", False),
        ("0", False),
        ("", False),
        ("Gi", False),
        ("2e", False),
        ("1e999", False),
        ("２Gi", False),
        ("1Ki", False),
        ("200K", False),
        ("200k", False),
    ],
)
def test_amounts_are_quantities(recipe: Callable[..., Path], memory: str, good: bool):
    """k8s.io/apimachinery resource.Quantity; and for memory, more than a container's least."""
    assert good == is_taken(recipe, memory=memory)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"namespace": "Team"}, "--namespace 'Team'"),
        ({"namespace": "a.b"}, "--namespace"),
        ({"namespace": "x" * 64}, "--namespace"),
        ({"queue": "a_b"}, "--queue 'a_b'"),
        ({"cpu": "eight"}, "--cpu 'eight'"),
        ({"workdir": "work"}, "--workdir 'work'"),
        ({"resource": "npu"}, "--resource 'npu'"),
        ({"resource": "kubernetes.io/x"}, "--resource"),
        ({"resource": "huawei.com/"}, "--resource"),
        ({"labels": {"a/b/c": "x"}}, "--label 'a/b/c'"),
        ({"labels": {"team": "a b"}}, "--label team= 'a b'"),
        ({"labels": {"-x": ""}}, "--label"),
        ({"labels": {"x" * 64: ""}}, "--label"),
        ({"labels": {"Team.com/x": ""}}, "--label"),
        ({"labels": {"x": "y" * 64}}, "--label x="),
        ({"node_selector": {"kind": "-910b"}}, "--node-selector kind="),
        ({"secrets": {"T": ("Hub", "token")}}, "--secret T= 'Hub'"),
        ({"secrets": {"T": ("hub", "a b")}}, "--secret T=hub: 'a b'"),
        ({"mounts": (Mount("a..b", "/x"),)}, "--mount 'a..b'"),
    ],
)
def test_names_that_kubernetes_refuses_are_said_here(recipe: Callable[..., Path], changed: dict[str, Any], said: str):
    """The option is named, and what it takes."""
    with pytest.raises(LaunchError) as caught:
        manifest(make(recipe()), "volcano", replace(POD, **changed))

    assert said in caught.value.what
    assert caught.value.hint


@pytest.mark.parametrize(
    "changed",
    [
        {"namespace": "team-1"},
        {"queue": "research.a"},
        {"cpu": "500m"},
        {"cpu": "0.5"},
        {"resource": "huawei.com/ascend-1980"},
        {"labels": {"example.com/Team_1.x": ""}},
        {"labels": {"x": "y" * 63}},
        {"secrets": {"T": ("hub.x", "_a-b.C")}},
    ],
)
def test_names_that_kubernetes_takes_pass(recipe: Callable[..., Path], changed: dict[str, Any]):
    assert is_taken(recipe, **changed)


def is_taken(recipe: Callable[..., Path], **changed: Any) -> bool:
    try:
        manifest(make(recipe()), "volcano", replace(POD, **changed))
    except LaunchError:
        return False
    return True


@pytest.mark.parametrize(("nodes", "rank"), [(2, 0), (2, 1), (5, 4)])
def test_a_pytorchjobs_pods_find_their_place(recipe: Callable[..., Path], nodes: int, rank: int):
    """From what the training-operator sets in them (pkg/controller.v1/pytorch/envvar.go): the pods of this manifest are
    numbered, know how many they are and where the first is."""
    _, job = manifest(make(recipe(), nodes=nodes), "pytorchjob")
    name, specs = job["metadata"]["name"], job["spec"]["pytorchReplicaSpecs"]
    pods = sum(replica["replicas"] for replica in specs.values())
    env = {
        "MASTER_ADDR": f"{name}-master-0",
        "PET_MASTER_ADDR": f"{name}-master-0",
        "MASTER_PORT": "23456",
        "PET_MASTER_PORT": "23456",
        "WORLD_SIZE": str(pods * int(job["spec"]["nprocPerNode"])),
        "RANK": str(rank),
        "PET_NNODES": str(pods),
        "PET_NODE_RANK": str(rank),
        "PET_NPROC_PER_NODE": job["spec"]["nprocPerNode"],
        "PYTHONUNBUFFERED": "1",
        "HOSTNAME": f"{name}-worker-{rank - 1}",
    }
    found = environment.find(env)

    assert (nodes, rank, 8) == (found.count, found.rank, found.nproc)
    assert (f"{name}-master-0:23456", "bert") == (found.endpoint, found.job)


@pytest.mark.parametrize(("nodes", "rank"), [(2, 0), (2, 1), (5, 4)])
def test_a_volcano_jobs_pods_find_their_place(recipe: Callable[..., Path], nodes: int, rank: int):
    """From what its plugins svc and env set (pkg/controllers/job/plugins): they are both asked for, and there is one role."""
    _, job = manifest(make(recipe(), nodes=nodes), "volcano")
    name, (task,) = job["metadata"]["name"], job["spec"]["tasks"]
    hosts = [f"{name}-{task['name']}-{i}.{name}" for i in range(task["replicas"])]
    assert {"svc", "env"} == set(job["spec"]["plugins"])
    role = task["name"].upper()
    env = {
        f"VC_{role}_HOSTS": ",".join(hosts),
        f"VC_{role}_NUM": str(len(hosts)),
        "VC_TASK_INDEX": str(rank),
        "VK_TASK_INDEX": str(rank),
    }
    found = environment.find(env | {"HOSTNAME": f"{name}-{task['name']}-{rank}"})

    assert (nodes, rank) == (found.count, found.rank)
    assert found.endpoint is not None and found.endpoint.startswith(f"{hosts[0]}:")
