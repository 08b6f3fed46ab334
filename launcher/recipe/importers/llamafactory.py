"""A LLaMA-Factory YAML as one of our recipes: what maps, with where it came from, and what does not, with the reason.

LLaMA-Factory trains a model to write, and so does the recipe. Where its responses are a few texts they may be learned as labels
instead: the answers of a causal LM, or the classes of a head.
"""

from __future__ import annotations

from launcher.messages import Message
from launcher.recipe.importers.base import INTERFACE, Imported, Source
from launcher.recipe.importers.llamafactory_v0 import Import
from launcher.recipe.importers.llamafactory_v1 import ImportV1

_KINDS = {"model_name_or_path": Import, "train_dataset": ImportV1}
"""A key that only files of one version have, and what reads them."""


class LlamaFactory:
    """Reads its YAML of versions 0 and 1."""

    interface = INTERFACE
    names: str = Message("{keys} (LLaMA-Factory)", keys=" or ".join(_KINDS))

    def fits(self, source: Source) -> bool:
        return any(key in source.value for key in _KINDS)

    def convert(self, source: Source, *, nproc: int | None, task: str, labels: tuple[str, ...]) -> Imported:
        kind = next(_KINDS[key] for key in _KINDS if key in source.value)
        job = kind(source.path, dict(source.value), source.key_lines(), nproc or 1, task)
        return Imported(job.run(labels), job.left)


LLAMAFACTORY = LlamaFactory()
