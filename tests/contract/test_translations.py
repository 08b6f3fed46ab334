"""Every text for people is a template, and a translation is one catalogue dropped into the package."""

from __future__ import annotations

import ast
import functools
import os
import re
import shutil
import string
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from babel.messages import mofile
from babel.messages.catalog import Catalog

from tools import messages as messages_tool

REPO = Path(__file__).resolve().parents[2]
TEXTS = {
    "{path}: no such file": "没有这个文件：{path}",
    "\nnothing was started or written": "\n没有启动或写入任何内容",
    "Nodes of the job [default: from the cluster's environment, else 1].": "作业的节点数。",
    "Language of texts [default: what ASCEND_LAUNCH_LANG names, else the locale's].": "文本的语言。",
    "error: {error}": "错误：{error}",
}


def ascend_launch(package: Path, *argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    """The command line of a package in a folder."""
    clean = {name: value for name, value in os.environ.items() if name not in ("LC_ALL", "LC_MESSAGES", "LANG")}
    return subprocess.run(
        [sys.executable, "-m", "launcher.cli", *argv],
        cwd=package,
        env={**clean, "PYTHONPATH": str(package), "PYTHONUTF8": "1", **env},
        capture_output=True,
        encoding="utf-8",
    )


def test_a_language_needs_no_file_but_its_catalogue(tmp_path: Path):
    """Help, an error and what is shown; chosen by option, by variable or by locale, and English without."""
    shutil.copytree(REPO / "launcher", tmp_path / "launcher", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("recipes", "accelerate_configs"):
        shutil.copytree(REPO / name, tmp_path / name)
    chinese = Catalog(locale="zh")
    for text, meaning in TEXTS.items():
        chinese.add(text, meaning)
    path = tmp_path / "launcher" / "locale" / "zh" / "LC_MESSAGES" / "ascend_launch.mo"
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        mofile.write_mo(file, chinese)

    assert "作业的节点数。" in ascend_launch(tmp_path, "--lang", "zh", "run", "--help").stdout
    assert "文本的语言。" in ascend_launch(tmp_path, "--help", ASCEND_LAUNCH_LANG="zh").stdout
    assert "错误：没有这个文件：no-such.yaml\n" in ascend_launch(tmp_path, "no-such.yaml", LANG="zh_CN.UTF-8").stderr
    shown = ascend_launch(
        tmp_path, "--lang=zh", "--device", "cpu", "--nproc", "1", "--dry-run", "recipes/tiny-cpu.yaml"
    )
    assert "没有启动或写入任何内容" in shown.stdout, shown.stderr
    refused = ascend_launch(tmp_path, "no-such.yaml")
    assert (2, "error: ") == (refused.returncode, refused.stderr[:7])


# --- every text is a template --------------------------------------------------------------------------------------

WORD = re.compile(r"^[(\"'`,;]*[a-z][a-z']+[,;.:)\"'`?]*$")
ALONE = {"far_side.py"}
"""Sent to hosts by itself: it imports nothing of the launcher, and what it says comes back as data."""


class Module:
    """One file of the package: its functions by name, and what its imports lead to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tree = ast.parse(path.read_text(encoding="utf-8"))
        self.functions = {n.name: n for n in ast.walk(self.tree) if isinstance(n, ast.FunctionDef)}
        self.parents = {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}
        self.imported = {
            (alias.asname or alias.name): (node.module, alias.name)
            for node in ast.walk(self.tree)
            if isinstance(node, ast.ImportFrom) and node.module
            for alias in node.names
        }

    def scope(self, node: ast.AST) -> ast.AST:
        """The function that a node stands in, or the module."""
        while not isinstance(node, ast.FunctionDef | ast.Module):
            node = self.parents[node]
        return node


def package() -> dict[str, Module]:
    paths = sorted(p for p in (REPO / "launcher").rglob("*.py") if p.name not in ALONE)
    return {".".join(p.relative_to(REPO).with_suffix("").parts).removesuffix(".__init__"): Module(p) for p in paths}


class Reader:
    """Follows an argument to the expressions that it may be, through names of its function and calls of the package."""

    def __init__(self, modules: dict[str, Module]) -> None:
        self.modules = modules
        self.seen: set[ast.AST] = set()
        self.culprits: list[str] = []

    def read(self, module: Module, node: ast.AST) -> None:
        if node in self.seen:
            return
        self.seen.add(node)
        if is_built(node):
            self.culprits.append(f"{module.path.relative_to(REPO)}:{node.lineno}: {ast.unparse(node)[:100]}")
        for each in self._next(module, node):
            self.read(*each)

    def _next(self, module: Module, node: ast.AST) -> Iterator[tuple[Module, ast.AST]]:
        if isinstance(node, ast.IfExp):
            yield from ((module, each) for each in (node.body, node.orelse))
        elif isinstance(node, ast.BoolOp):
            yield from ((module, each) for each in node.values)
        elif isinstance(node, ast.NamedExpr | ast.AugAssign):
            yield module, node.value
        elif isinstance(node, ast.Name):
            yield from ((module, value) for value in bound(module.scope(node)).get(node.id, ()))
        elif isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute) and node.func.attr == "join" and node.args:
                yield module, getattr(node.args[0], "elt", node.args[0])
            for other, function in self._called(module, node.func):
                yield from ((other, n.value) for n in ast.walk(function) if isinstance(n, ast.Return) and n.value)

    def _called(self, module: Module, called: ast.expr) -> Iterator[tuple[Module, ast.FunctionDef]]:
        name, home = getattr(called, "id", ""), module
        if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
            name = called.attr
            source = module.imported.get(called.value.id)
            if source is None and called.value.id != "self":
                return
            home = self.modules.get(".".join(source)) if source else module
        elif name in module.imported:
            home = self.modules.get(module.imported[name][0])
        if home is not None and name in home.functions:
            yield home, home.functions[name]


@functools.cache
def bound(scope: ast.AST) -> dict[str, list[ast.AST]]:
    """The names of a function, and what each is assigned."""
    found: dict[str, list[ast.AST]] = {}
    for node in ast.walk(scope):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = node if isinstance(node, ast.AugAssign) else getattr(node, "value", None)
        for target in targets:
            if isinstance(target, ast.Name) and value is not None:
                found.setdefault(target.id, []).append(value)
    return found


def is_built(node: ast.AST) -> bool:
    """Whether an expression puts a sentence together where no translator can reach it: by f-string, +, % or format."""
    if isinstance(node, ast.JoinedStr):
        return has_words("".join(v.value if isinstance(v, ast.Constant) else " " for v in node.values))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mod):
        return any(is_sentence(side) for side in (node.left, node.right))
    if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
        return is_sentence(node.value)
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "format"
        and is_sentence(node.func.value)
    )


def is_sentence(node: ast.expr) -> bool:
    if isinstance(node, ast.IfExp):
        return is_sentence(node.body) or is_sentence(node.orelse)
    if isinstance(node, ast.Call):
        return messages_tool.name_of(node) in ("Message", "plural", "joined")
    if isinstance(node, ast.Constant):
        return has_words(node.value) and " " in node.value
    return is_built(node) and isinstance(node, ast.JoinedStr)


def has_words(text: object) -> bool:
    return isinstance(text, str) and any(map(WORD.match, text.split()))


def untranslatable(modules: dict[str, Module]) -> list[str]:
    reader = Reader(modules)
    for module in modules.values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call):
                for argument in messages_tool.carried(node):
                    reader.read(module, argument)
                for each in node.keywords:
                    is_value = messages_tool.name_of(node) in ("LaunchError", "Message", "plural")
                    if is_value or (each.arg in ("help", "epilog") and "cli" in module.path.parts):
                        reader.read(module, each.value)
            elif "show" in module.path.parts and is_built(node):
                reader.read(module, node)
    return reader.culprits


def test_texts_are_templates():
    """No f-string, +, % or format makes a text that reaches an error, help, a finding or the screen."""
    assert [] == untranslatable(package())


@pytest.mark.parametrize(
    "code",
    [
        'raise LaunchError(f"{path}: no such file")',
        'raise LaunchError("{path}: no such file", hint=f"create {path}")',
        'raise LaunchError("no file named " + path)',
        'raise LaunchError("no file named %s" % path)',
        'raise LaunchError("no file named {}".format(path))',
        'def f():\n    what = f"{path}: no such file"\n    raise LaunchError(what)',
        'def f():\n    what = "a" if x else f"no such file: {path}"\n    raise LaunchError("{what}", hint=what)',
        'def f():\n    return f"no such file: {path}"\nraise LaunchError(f())',
        'raise LaunchError("; ".join(f"no such file: {p}" for p in paths))',
        'raise click.UsageError(f"no such file: {path}")',
        'return Finding("disk", "fail", f"{free} bytes are free")',
    ],
)
def test_what_is_no_template_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str):
    """The test above can fail."""
    monkeypatch.setitem(globals(), "REPO", tmp_path)
    (tmp_path / "module.py").write_text(code if "return F" not in code else f"def f():\n    {code}")

    assert 1 == len(untranslatable({"launcher.module": Module(tmp_path / "module.py")}))


# --- every template is filled --------------------------------------------------------------------------------------

OWN = {"LaunchError": {"hint", "exit_code", "is_consequence"}, "Message": set(), "plural": set()}
"""Keywords that are no values."""


def templates(call: ast.Call, name: str) -> list[str] | None:
    """The templates of a call that the same values fill; None where one of them is not in it."""
    texts = [*call.args, *(key.value for key in call.keywords if name == "LaunchError" and key.arg == "hint")]
    found = []
    while texts:
        text = texts.pop()
        if isinstance(text, ast.IfExp):
            texts += [text.body, text.orelse]
        elif isinstance(text, ast.Constant) and isinstance(text.value, str):
            found.append(text.value)
        else:
            return None
    return found


def fields(template: str) -> set[str]:
    return {re.split(r"[.\[]", field)[0] for _, field, _, _ in string.Formatter().parse(template) if field is not None}


def unfilled(call: ast.Call) -> str | None:
    """What is wrong between a call's templates and its values."""
    name = ast.unparse(call.func).rpartition(".")[2]
    if name not in OWN or any(key.arg is None for key in call.keywords):
        return None
    values = {str(key.arg) for key in call.keywords} - OWN[name]
    texts = templates(call, name)
    if not values or texts is None:
        return None  # a template without values stands as it is
    wanted = set().union(*map(fields, texts))
    chosen_by = {"count"} if name == "plural" else set()
    return ", ".join(sorted((wanted ^ values) - chosen_by)) or None


def test_every_field_of_a_template_has_a_value_and_every_value_a_field():
    """A name that only one side knows would end in a traceback where a mistake should be explained."""
    wrong = [
        f"{module.path.relative_to(REPO)}:{node.lineno}: {names}"
        for module in package().values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and (names := unfilled(node))
    ]
    assert [] == wrong


@pytest.mark.parametrize(
    ("call", "wrong"),
    [
        ("LaunchError('{a}', hint='{b}', a=1)", "b"),
        ("Message('{a}', a=1, b=2)", "b"),
        ("plural('{count} x', '{count} {b}', count=1)", "b"),
        ("plural('one', 'more', count=1)", None),
        ("Message('{a}' if x else '{b!r}', a=1, b=2)", None),
        ("LaunchError('{a}', exit_code=1, a=1)", None),
        ("Message('{a}')", None),
    ],
)
def test_a_missing_or_needless_value_is_seen(call: str, wrong: str | None):
    expression = ast.parse(call, mode="eval").body
    assert isinstance(expression, ast.Call)
    assert wrong == unfilled(expression)
