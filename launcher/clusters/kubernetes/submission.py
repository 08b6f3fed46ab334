"""From a plan and what was asked of the pods to a manifest that kubectl creates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from launcher.clusters import paths
from launcher.clusters.kubernetes import client, document, manifest
from launcher.clusters.kubernetes.manifest import RECIPE_DIR
from launcher.clusters.kubernetes.pod import JOB_LABEL, Mount, Pod, job_name
from launcher.clusters.submission import Asked, Commands, Script, Work
from launcher.errors import LaunchError
from launcher.render import files as rendered


@dataclass(frozen=True)
class Options:
    """The options of cluster.OPTIONS, as they are typed."""

    image: str | None = None
    mounts: Sequence[str] = ()
    namespace: str | None = None
    resource: str | None = None
    shm: int | None = None
    cpu: str | None = None
    memory: str | None = None
    env: Sequence[str] = ()
    secrets: Sequence[str] = ()
    node_selector: Sequence[str] = ()
    labels: Sequence[str] = ()
    workdir: str | None = None
    driver: bool = True
    host_network: bool = False
    queue: str | None = None


@dataclass(frozen=True)
class PodSubmission:
    """One job of pods."""

    kind: Literal["pytorchjob", "volcano"]
    options: Options
    mounts: tuple[Mount, ...]

    @classmethod
    def of(cls, kind: Literal["pytorchjob", "volcano"], options: Options) -> PodSubmission:
        """Raises LaunchError for a mount that is none."""
        return cls(kind, options, tuple(Mount.parse(text) for text in options.mounts))

    @property
    def queue(self) -> None:
        return None

    def is_theirs(self, path: str) -> bool:
        """Below a mount, or in their image and not here."""
        return self._is_mounted(path) or (path.startswith("/") and not Path(path).exists())

    def _is_mounted(self, path: str) -> bool:
        return any(mount.holds(path) for mount in self.mounts)

    def warnings(self, work: Work) -> list[str]:
        """Raises LaunchError for a file of this machine that pods do not have: on no mount of theirs, and by all that can be
        seen not in their image."""
        if work.recipe is not None:
            return paths.in_pods(work.loaded.spec, self.options.workdir, self._is_mounted)
        lost = [path for path in work.files if not self._has(path)]
        if lost:
            raise LaunchError(
                "{lost}: a file of this machine; the pods have no such file",
                hint="name it as the pods see it: on a volume (--mount CLAIM:/code, then /code/…), or its path in "
                "the image (--workdir DIR says where relative paths start there)",
                lost=lost[0],
            )
        return []

    def _has(self, path: str) -> bool:
        workdir = self.options.workdir
        pod_path = str(PurePosixPath(workdir) / path) if workdir else path
        return (pod_path.startswith("/") and self._is_mounted(pod_path)) or not Path(pod_path).exists()

    def script(self, work: Work, asked: Asked) -> Script:
        """Raises LaunchError for a value that Kubernetes would refuse, and where no mount keeps the run."""
        if not self.options.image:
            raise LaunchError(
                "--kubernetes and --volcano need --image", hint="name an image that has ascend-launch in it"
            )
        name = job_name(asked.job_name or work.plan.name)
        run_dir = _kept(asked.run_dir, self.mounts, name)
        contents = _contents(work, name)
        pod = self._pod(self.options.image, asked.cann)
        # The overrides are in the recipe that travels along.
        recipe = f"{RECIPE_DIR}/{name}.yaml" if work.recipe is not None else None
        argv = ["ascend-launch", *work.argv(run_dir, recipe)]
        text = document.text(manifest.manifest(self.kind, work.plan, pod, name, contents, argv))
        return Script(text, name, run_dir)

    def _pod(self, image: str, cann: str | None) -> Pod:
        options = self.options
        return Pod(
            image=image,
            mounts=self.mounts,
            namespace=options.namespace,
            resource=options.resource,
            shm_gib=options.shm,
            cpu=options.cpu,
            memory=options.memory,
            env=_pairs("--env", options.env),
            secrets={k: _secret(k, v) for k, v in _pairs("--secret", options.secrets).items()},
            node_selector=_pairs("--node-selector", options.node_selector),
            labels=_pairs("--label", options.labels),
            workdir=options.workdir,
            cann=cann or None,
            driver=options.driver,
            host_network=options.host_network,
            queue=options.queue,
        )

    def submit(self, script: Script, env: Mapping[str, str]) -> str:
        return client.kubectl(script.text, self.options.namespace, env)

    def commands(self, job: str) -> Commands:
        return Commands(logs=f"kubectl logs -f -l {JOB_LABEL}={job} --prefix")


def _contents(work: Work, name: str) -> dict[str, str]:
    """The recipe with its overrides in it, and its script beside it."""
    if work.recipe is None:
        return {}
    loaded = work.loaded
    if work.script is not None:
        loaded = replace(loaded, spec=loaded.spec.model_copy(update={"script": work.script.name}))
    return manifest.recipe_files(rendered.recipe(loaded), name, work.script)


def _kept(run_dir: Path | None, mounts: tuple[Mount, ...], name: str) -> Path:
    """The run directory in the pods: on something that outlives them, and that all of them see."""
    writable = [m for m in mounts if not m.read_only]
    if run_dir is None:
        if not writable:
            raise LaunchError(
                "there is no place for the run that outlives its pods", hint="give one: --mount CLAIM:/results"
            )
        return Path(writable[-1].path) / name
    if not any(m.holds(str(run_dir)) for m in writable):
        raise LaunchError(
            "--run-dir {run_dir}: on no writable mount, so it would be lost with the pods",
            hint="name a folder below the path of a --mount",
            run_dir=run_dir,
        )
    return run_dir


def _pairs(option: str, words: Sequence[str]) -> dict[str, str]:
    out = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not key or not equals:
            raise LaunchError(
                "{option} {word!r} is not NAME=VALUE", hint="as in {option} NAME=VALUE", option=option, word=word
            )
        out[key] = value
    return out


def _secret(variable: str, word: str) -> tuple[str, str]:
    secret, colon, key = word.partition(":")
    if not secret or not colon or not key:
        raise LaunchError(
            "the Secret for {variable} is given as {word!r}, without a key of it",
            hint="give the Secret's name, a colon, and the key's name",
            variable=variable,
            word=word,
        )
    return secret, key
