#!/usr/bin/env python3
"""Build the emulated CANN with g++ against the installed torch and torch_npu, and print where it is.

The result lies in build/<key>/, where the key names everything it was made from; a second call costs milliseconds.
"""

import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "src"
LINKED = ("lib/libtorch_npu.so", "lib/libtensorpipe.so", "lib/libnpu_profiler.so")
EMPTY = ("libopapi.so", "libacl_op_compiler.so", "libge_runner.so", "libgraph.so", "libacl_tdt_channel.so")
"""Names that torch_npu links or opens; what it looks up in them is in libascendcl, which dlsym finds behind them."""
NEWER = (
    "ACL_EVENT_IPC",
    "HCCL_COMM_BUFFSIZE_CONFIG_NOT_SET",
    "HCCL_DATA_TYPE_HIF8",
    "HCCL_DATA_TYPE_INT128",
    "HCCL_E_OOM",
    "HcclCMDType",
    "aclrtDevAttr",
    "aclrtHostFunc",
    "aclrtMallocConfig",
    "aclrtPtrAttributes",
    "aclrtStreamAttr",
    "aclrtUuid",
)
"""What the headers in older wheels do not declare: the sources leave it out, or bring it, where LACKS_ and the name is set."""


def package(name):
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{sys.executable} has no {name}: pip install torch==2.13.0 torch-npu==2.13.0")
    return Path(spec.submodule_search_locations[0])


def key(torch, torch_npu):
    digest = hashlib.sha256()
    for path in [*sorted(SOURCES.iterdir()), Path(__file__), torch / "version.py", torch_npu / "version.py"]:
        digest.update(path.name.encode() + path.read_bytes())
    digest.update(f"{torch}\0{torch_npu}\0{sys.version_info[:2]}".encode())
    return digest.hexdigest()[:16]


def undefined(library):
    """C names that a library wants from others."""
    text = subprocess.run(["nm", "-D", "--undefined-only", library], capture_output=True, text=True, check=True).stdout
    names = {line.split()[-1].split("@")[0] for line in text.splitlines() if line.split()}
    return {name for name in names if re.match(r"(acl|Msprof|rt[A-Z]|ge[A-Z]|Hccl|Hcom)", name)}


def defined(library):
    text = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True).stdout
    return {line.split()[-1] for line in text.splitlines()}


def compile_library(output, sources, *flags):
    command = ["g++", "-std=c++20", "-O2", "-fPIC", "-shared", "-Wall", f"-Wl,-soname,{output.name}", "-o", str(output)]
    done = subprocess.run([*command, *map(str, sources), *flags], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join([*command, *map(str, sources), *flags])}\n{done.stderr}")
    if done.stderr and os.environ.get("EMULATED_BUILD_VERBOSE"):
        print(done.stderr, file=sys.stderr)


def lacking(third_party):
    """The NEWER names that no header there has, as options of the compiler."""
    text = "\n".join(path.read_text(errors="replace") for path in third_party.rglob("*.h"))
    return [f"-DLACKS_{name}" for name in NEWER if not re.search(rf"\b{name}\b", text)]


def make(folder, torch, torch_npu):
    include = torch_npu / "include"
    acl = [
        "-isystem",
        str(include / "third_party/acl/inc"),
        "-isystem",
        str(include / "third_party/hccl/inc"),
        "-isystem",
        str(include),
        *lacking(include / "third_party"),
    ]
    kernels = subprocess.Popen(
        [
            "g++",
            "-std=c++20",
            "-O1",
            "-fno-access-control",
            "-fPIC",
            "-shared",
            "-w",
            "-Wl,-soname,libemulated_kernels.so",
            "-o",
            str(folder / "libemulated_kernels.so"),
            str(SOURCES / "kernels.cpp"),
            "-isystem",
            str(torch / "include"),
            "-isystem",
            str(torch / "include/torch/csrc/api/include"),
            *acl,
            f"-L{torch / 'lib'}",
            f"-L{torch_npu / 'lib'}",
            "-ltorch_npu",
            "-ltorch_cpu",
            "-lc10",
            "-Wl,--allow-shlib-undefined",
            f"-Wl,-rpath,{torch / 'lib'}:{torch_npu / 'lib'}",
        ],
        stderr=subprocess.PIPE,
        text=True,
    )

    common = [SOURCES / "machine.cpp", SOURCES / "ascendcl.cpp", SOURCES / "aclop.cpp"]
    with tempfile.TemporaryDirectory() as scratch:
        probe = Path(scratch) / "libascendcl.so"
        compile_library(probe, common, *acl)
        wanted = set().union(*(undefined(torch_npu / name) for name in LINKED))
        missing = sorted(wanted - defined(probe))
    stubs = folder / "not_emulated.cpp"
    body = "\n".join(f'int {name}() {{ emulated::not_emulated("{name}"); }}' for name in missing)
    stubs.write_text(f'#include "{SOURCES}/machine.hpp"\nextern "C" {{\n{body}\n}}\n')
    compile_library(folder / "libascendcl.so", [*common, stubs], *acl)
    compile_library(
        folder / "libhccl.so", [SOURCES / "hccl.cpp"], *acl, f"-L{folder}", "-lascendcl", "-Wl,-rpath,$ORIGIN"
    )
    nothing = folder / "nothing.cpp"
    nothing.write_text("")
    for name in EMPTY:
        compile_library(
            folder / name, [nothing], "-Wl,--no-as-needed", f"-L{folder}", "-lascendcl", "-Wl,-rpath,$ORIGIN"
        )
    compile_library(
        folder / "libhcomm.so", [nothing], "-Wl,--no-as-needed", f"-L{folder}", "-lhccl", "-Wl,-rpath,$ORIGIN"
    )
    compile_library(folder / "libemulated_devices.so", [SOURCES / "devices.cpp"])
    errors = kernels.communicate()[1]
    if kernels.returncode:
        raise SystemExit(f"the kernels do not compile:\n{errors[-6000:]}")


def build():
    """The folder of the libraries, built if need be."""
    torch, torch_npu = package("torch"), package("torch_npu")
    root = Path(os.environ.get("EMULATED_BUILD", HERE / "build"))
    folder = root / key(torch, torch_npu)
    if (folder / "done").exists():
        return folder
    root.mkdir(parents=True, exist_ok=True)
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            print("emulated CANN: building, about a minute", file=sys.stderr)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder, torch, torch_npu)
            (folder / "done").touch()
    return folder


if __name__ == "__main__":
    print(build())
