"""Which libraries may be imported once, before a program's ranks are forked? Read from its source; nothing is run.

A library that the agent has imported is the same one in every rank, but it saw the environment of the agent. So only
what the program itself imports before anything of its own could have changed the environment is imported beforehand.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from pathlib import Path

from launcher.messages import Message
from launcher.recipe.program import Program

KNOWN = frozenset(
    {
        "PIL",
        "accelerate",
        "datasets",
        "deepspeed",
        "evaluate",
        "huggingface_hub",
        "numpy",
        "pandas",
        "peft",
        "pyarrow",
        "requests",
        "safetensors",
        "scipy",
        "sklearn",
        "tokenizers",
        "torch",
        "torchvision",
        "tqdm",
        "transformers",
        "trl",
        "yaml",
    }
)
"""Libraries whose import opens no device and starts no thread that ranks would miss (a trial and a look at the threads
follow all the same)."""
BEFORE_TORCH = re.compile(
    r"OMP_|MKL_|KMP_|OPENBLAS_|TORCH|PYTORCH_|ASCEND|ACL_|HCCL_|NPU_|CUDA_|LD_|TASK_QUEUE|GOMP_|ATEN_"
)
"""Variables that torch, or torch_npu with it, reads when it is imported or not again after its first use."""
_CHANGES = re.compile(
    rb"environ\s*\[[^\]]*\]\s*=[^=]|environ\.(?:update|setdefault|pop|clear)|\b(?:un)?setenv\(|putenv\("
)
_QUIET_CALLS = frozenset({"logging", "warnings"})
MOST_FILES = 300


@dataclass
class Preload:
    """Modules to import in this order, and why the list ends where it does ('' where the program's imports do)."""

    modules: list[str] = field(default_factory=list)
    names: dict[str, list[str]] = field(default_factory=dict)
    """What the program imports from each of them: a lazy library, as transformers is, loads a name when it is asked for."""
    reason: str = ""
    may_import_torch: bool = True
    """Whether torch itself may be imported beforehand, whatever else may not."""


class _StopError(Exception):
    """From here on the program may have changed what an import sees."""


def of(program: Program, cwd: Path) -> Preload:
    """What may be imported before the ranks of a script or a module are forked."""
    preload = Preload()
    source = _source(program, cwd)
    if source is None:
        preload.reason = Message("{target} cannot be read as source", target=program.target)
        return preload
    home = source.resolve().parent
    reader = _Reader(preload, cwd if program.kind == "module" else home, home)
    try:
        if program.kind == "module":
            reader.package_of(program.target, source)
        reader.file(source, is_main=True)
    except _StopError as stop:
        preload.reason = str(stop)
    preload.may_import_torch = not reader.is_before_torch
    return preload


def _source(program: Program, cwd: Path) -> Path | None:
    if program.kind == "script":
        path = cwd / program.target
        return path / "__main__.py" if path.is_dir() else path
    base = cwd.joinpath(*program.target.split("."))
    for path in (base.with_suffix(".py"), base / "__main__.py"):
        if path.is_file():
            return path
    top, *rest = program.target.split(".")
    spec = _spec(top)  # an installed one: finding `a.b` imports `a`, so only the top of it is looked for
    if spec is None or spec.origin is None:
        return None
    base = Path(spec.origin).parent.joinpath(*rest) if rest else Path(spec.origin).parent
    candidates = (base.with_suffix(".py"), base / "__main__.py") if rest else (base / "__main__.py", Path(spec.origin))
    return next((path for path in candidates if path.is_file()), None)


class _Reader:
    """Walks statements in the order in which Python would run them."""

    def __init__(self, preload: Preload, root: Path, home: Path) -> None:
        self.preload = preload
        self.root = root
        """Where the program's own modules are looked for first."""
        self.home = home
        """The folder that the program's file lies in."""
        self.seen: set[Path] = set()
        self.strangers: set[str] = set()
        self.is_before_torch = False

    def package_of(self, target: str, source: Path) -> None:
        """What `-m` imports before it runs the module itself."""
        package = target.removesuffix(".__main__") if source.name == "__main__.py" else target.rpartition(".")[0]
        if package:
            self.module(package, source, 1)

    def file(self, path: Path, *, is_main: bool = False) -> None:
        if path in self.seen:
            return
        self.seen.add(path)
        try:
            tree = ast.parse(path.read_bytes())
        except (OSError, SyntaxError, ValueError, RecursionError):
            raise _StopError(Message("{path} cannot be read as source", path=path.name)) from None
        self.block(tree.body, path, is_main=is_main)

    def block(self, body: list[ast.stmt], path: Path, *, is_main: bool = False) -> None:
        for node in body:
            self.statement(node, path, is_main=is_main)

    def statement(self, node: ast.stmt, path: Path, *, is_main: bool) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                self.module(alias.name, path, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            self.imported_from(node, path)
        elif isinstance(node, ast.Try):
            self.block(node.body, path)
        elif isinstance(node, ast.If) and _is_type_checking(node.test):
            self.block(node.orelse, path)
        elif isinstance(node, ast.If) and _is_main(node.test):
            if is_main:
                self.block(node.body, path)
        elif not _is_harmless(node):
            self.stop(node, path)

    def imported_from(self, node: ast.ImportFrom, path: Path) -> None:
        if node.level:
            base = path.parent
            for _ in range(node.level - 1):
                base = base.parent
            inner = base.joinpath(*(node.module or "").split(".")) if node.module else base
            self.local(inner, [alias.name for alias in node.names])
        elif node.module and node.module != "__future__":
            self.module(node.module, path, node.lineno, [alias.name for alias in node.names])

    def module(self, name: str, path: Path, line: int, names: list[str] | None = None) -> None:
        top = name.partition(".")[0]
        root = self.own_root(top)
        if root is not None:
            parts = name.split(".")
            for depth in range(1, len(parts)):  # a package's own code runs before that of a module in it
                self.local(root.joinpath(*parts[:depth]), [])
            self.local(root.joinpath(*parts), names or [])
        elif top in KNOWN:
            if name not in self.preload.modules:
                self.preload.modules.append(name)
            self.preload.names.setdefault(name, []).extend(n for n in names or () if n != "*")
        elif top not in sys.stdlib_module_names:
            self.stranger(top, path, line)

    def own_root(self, top: str) -> Path | None:
        """The folder that holds a module of the program's own: beside the program, or the one of the installed package
        that the program is a file of, as LLaMA-Factory's launcher.py is; None for a library."""
        if (self.root / f"{top}.py").is_file() or (self.root / top / "__init__.py").is_file():
            return self.root
        if top in KNOWN or top not in self.home.parts:
            return None
        spec = _spec(top)
        folders = [Path(folder).resolve() for folder in (spec.submodule_search_locations if spec else None) or ()]
        return next((folder.parent for folder in folders if self.home.is_relative_to(folder)), None)

    def local(self, base: Path, names: list[str]) -> None:
        """A module of the program's own: it is read, since it runs before what follows its import."""
        parts = [base.with_suffix(".py"), base / "__init__.py", *(base / f"{name}.py" for name in names)]
        for part in parts:
            if part.is_file():
                self.file(part.resolve())

    def stranger(self, top: str, path: Path, line: int) -> None:
        """An installed library that is not known: harmless to those after it where nothing in it sets a variable."""
        if top in self.strangers:
            return
        self.strangers.add(top)
        spec = _spec(top)
        if spec is None:
            raise _StopError(Message("{path}:{line}: {top} is not installed", path=path.name, line=line, top=top))
        files = [Path(spec.origin)] if spec.origin else []
        for folder in spec.submodule_search_locations or ():
            files += sorted(Path(folder).rglob("*.py"))[: MOST_FILES + 1]
        if len(files) > MOST_FILES or any(_CHANGES.search(_bytes(file)) for file in files):
            raise _StopError(
                Message("{path}:{line}: {top} may change the environment", path=path.name, line=line, top=top)
            )

    def stop(self, node: ast.stmt, path: Path) -> None:
        if not _CHANGES.search(ast.unparse(node).encode()):
            raise _StopError(
                Message("{path}:{lineno} runs code before what it imports next", path=path.name, lineno=node.lineno)
            )
        texts = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
        keys = [text for text in texts if re.fullmatch(r"[A-Z_][A-Z0-9_]*", text)]
        has_torch = "torch" in {name.partition(".")[0] for name in self.preload.modules}
        self.is_before_torch = not has_torch and (not keys or any(BEFORE_TORCH.match(key) for key in keys))
        raise _StopError(
            Message(
                "{path}:{lineno} sets {key}", path=path.name, lineno=node.lineno, key=keys[0] if keys else "variables"
            )
        )


def _spec(top: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""


def _is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def _is_main(test: ast.expr) -> bool:
    return ast.unparse(test).replace('"', "'") == "__name__ == '__main__'"


def _is_harmless(node: ast.stmt) -> bool:
    """Definitions, constants and values made of them: nothing that could set a variable."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Pass | ast.Assert):
        return True
    if isinstance(node, ast.Expr | ast.Assign | ast.AnnAssign):
        if not all(isinstance(t, ast.Name) for t in getattr(node, "targets", [])):
            return False
        calls = [n for n in ast.walk(node) if isinstance(n, ast.Call)]
        return all(ast.unparse(call.func).partition(".")[0] in _QUIET_CALLS for call in calls)
    return False
