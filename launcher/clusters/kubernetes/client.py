"""kubectl."""

from __future__ import annotations

from collections.abc import Mapping

from launcher.clusters.command import client, refused
from launcher.messages import Message

WHERE = Message("a machine that has kubectl")
KUBECTL_HINTS = (
    (
        r"already exists",
        Message("give another --job-name, or delete that job first (`kubectl delete` what --dry-run lists)"),
    ),
    (
        r"no matches for kind",
        Message("the cluster lacks that operator: install it, or take the other of --kubernetes and --volcano"),
    ),
    (
        r"connection|refused|lookup|no configuration|unable to connect|was it provided",
        Message("this machine does not reach the cluster: check `kubectl config current-context`"),
    ),
    (
        r"forbidden|cannot create",
        Message("your account may not do that there: name another --namespace, or ask for the right"),
    ),
    (r"namespaces? .* not found", Message("name one that exists with --namespace")),
)


def kubectl(manifest: str, namespace: str | None, env: Mapping[str, str]) -> str:
    """Create what a manifest says, all of it or nothing; kubectl's output on what it made.

    `create`, not `apply`: where the job is there already, `apply` changes nothing and says that all is well.

    Raises:
        LaunchError: kubectl is missing, or refuses.
    """
    argv = ["kubectl", "create", *(["--namespace", namespace] if namespace else []), "-f", "-"]
    stdin = manifest.encode(errors="surrogateescape")
    for more in (["--dry-run=server"], []):  # else a recipe would be left behind without its job
        done = client([*argv, *more], env, stdin, WHERE)
        if done.returncode:
            raise refused("kubectl", done.stderr, KUBECTL_HINTS, Message("`--dry-run` shows the manifest"))
    return done.stdout.decode(errors="replace").strip()
