"""A kernel of another package: SiLU as its own formula, for cores."""

from __future__ import annotations

import types
from typing import Any


class CoresSilu:
    """x · sigmoid(x), in two operators."""

    interface = 1
    name = "cores-silu"
    accelerators = ("cores",)
    replaces = "SiLU activations"

    def places(self, model: Any) -> list[Any]:
        return [module for module in model.modules() if type(module).__name__ in ("SiLU", "SiLUActivation")]

    def apply(self, module: Any) -> None:
        module.forward = types.MethodType(lambda _, x: x * x.sigmoid(), module)


CORES_SILU = CoresSilu()
