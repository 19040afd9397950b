"""The CPU kernels, their bindings and the thread pool under sanitizers: `make check-native`.

    python -m benchmarks.check_native            # both, all of it
    python -m benchmarks.check_native --quick    # what continuous integration does

The native module is built anew under the address and undefined-behaviour sanitizers, and its kernels under the thread
sanitizer, in build/. With the first the tests of renderer, losses and optimiser run as they are, in a Python in which
every array of torch and numpy lies in checked memory. With the second the program tests/native/stress.cpp runs, which
calls kernels and pool from several threads at once; torch and Python, which are not built for it, are left out. There
is no list of exceptions for our own code: any report ends with exit status 1. A sanitizer that compiler or kernel
cannot run here is left out, with a line that says why.

All instruction sets of the machine are tried, or with --quick the build for every processor alone: the others are what
takes longest to compile.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from gns.testing.shim import compiler

ROOT = Path(__file__).resolve().parents[1]
TESTS = [
    "tests/gaussian_renderer",
    "tests/losses",
    "tests/model/test_adam.py",
    # The compiler of CUDA finds no library of its own where the sanitizer loads them, and compiles nothing for the CPU.
    "--ignore=tests/gaussian_renderer/backends/test_nvrtc.py",
]
QUICK = [
    "tests/gaussian_renderer/test_boundary.py",
    "tests/gaussian_renderer/test_poison.py",
    "tests/gaussian_renderer/backends/test_bindings.py",
    "tests/model/test_adam.py",
]
# Two libraries that GCC has as files of these names, and Clang under others.
PRELOADED = ("libasan.so", "libubsan.so")
_SHOWN = 6000  # characters
_REPORT = re.compile(r"ERROR: \w*Sanitizer|WARNING: ThreadSanitizer|runtime error:")


def build(target: str, sanitizers: str, *, quick: bool) -> Path:
    """Build a target of CMakeLists.txt under `sanitizers`, and return the folder that it lies in."""
    folder = ROOT / "build" / f"native-{sanitizers.replace(',', '-')}{'-quick' if quick else ''}"
    # The one that pip installed beside this Python comes first: `make` does not put it on the path.
    cmake = shutil.which("cmake", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if cmake is None:
        raise SystemExit('building the native module apart takes CMake: pip install ".[check]"')
    configure = [cmake, "-S", str(ROOT), "-B", str(folder), f"-DGNS_SANITIZE={sanitizers}"]
    configure += [f"-DPython_EXECUTABLE={sys.executable}", f"-DGNS_BASELINE_ONLY={'ON' if quick else 'OFF'}"]
    subprocess.run(configure, check=True, stdout=subprocess.DEVNULL)
    subprocess.run([cmake, "--build", str(folder), "--target", target, "--parallel", str(os.cpu_count())], check=True)
    return folder


def library(name: str) -> str:
    """Where the compiler keeps the runtime library `name`, which must be loaded before Python itself; "" if nowhere."""
    command = [str(compiler()), f"-print-file-name={name}"]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    return answer if Path(answer).is_absolute() else ""  # the bare name comes back where there is no such file


def why_not(sanitizers: str) -> str:
    """Why a program built under `sanitizers` cannot run here; empty where it can.

    Compilers come without the libraries, and kernels lay out memory in ways that older thread sanitizers do not know.
    """
    with tempfile.TemporaryDirectory() as work:
        source, program = Path(work) / "empty.cpp", Path(work) / "empty"
        source.write_text("int main() { return 0; }\n")
        build = [str(compiler()), f"-fsanitize={sanitizers}", str(source), "-o", str(program)]
        for command in (build, [str(program)]):
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
            if done.returncode:
                said = done.stdout.strip().splitlines()
                return said[-1] if said else f"{Path(command[0]).name} ended with status {done.returncode}"
    return ""


def addresses_and_undefined(*, quick: bool) -> bool:
    """Whether the Python tests pass without a report."""
    module = build("gns_native", "address,undefined", quick=quick)
    environment = os.environ | {
        "LD_PRELOAD": " ".join(map(library, PRELOADED)),
        # Python keeps what it allocates to its end, and torch maps more than it frees; neither is ours.
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
        "PYTHONPATH": f"{module}{os.pathsep}{ROOT}",
        "PYTHONMALLOC": "malloc",
        "OMP_NUM_THREADS": "1",
    }
    plant = "import gns_native; print(gns_native.__file__)"
    found = subprocess.run([sys.executable, "-c", plant], env=environment, capture_output=True, text=True, check=False)
    if str(module) not in found.stdout:
        print(f"the sanitized module was not loaded: {found.stdout}{found.stderr}", file=sys.stderr)
        return False
    # By default pytest keeps what a test says in a file, and a report would go with the process that it ends.
    command = [sys.executable, "-m", "pytest", "-q", "--capture=sys", "-p", "no:cacheprovider"]
    command += QUICK if quick else TESTS
    return _clean(command, environment)


def threads(*, quick: bool) -> bool:
    """Whether the stress program ends well without a report, for each instruction set that is built and can run."""
    program = build("stress", "thread", quick=quick) / "stress"
    rounds = "5" if quick else "20"
    environment = os.environ | {"TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1"}
    return _clean([str(program), rounds], environment)


def _clean(command: list[str], environment: dict[str, str]) -> bool:
    done = subprocess.run(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    report = _REPORT.search(done.stdout)
    # Of a report the beginning tells most: below it come the frames of Python.
    print(done.stdout[report.start() :][:_SHOWN] if report else done.stdout[-_SHOWN:], flush=True)
    return done.returncode == 0 and not report


def main() -> int:
    """Build, run, and tell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer tests and rounds")
    parser.add_argument("--only", choices=("address", "thread"))
    options = parser.parse_args()
    if sys.platform != "linux" or compiler() is None:
        print("the sanitizers are run on Linux, with GCC or Clang")
        return 0
    passed, ran = True, []
    for name, sanitizers, check in (
        ("address", "address,undefined", addresses_and_undefined),
        ("thread", "thread", threads),
    ):
        if options.only not in (None, name):
            continue
        reason = why_not(sanitizers)
        if name == "address" and not reason and not all(map(library, PRELOADED)):
            reason = f"{compiler()} has no {' and '.join(PRELOADED)} to load before Python (GCC has)"
        if reason:
            print(f"left out: {sanitizers}: {reason}", flush=True)
            continue
        passed &= check(quick=options.quick)
        ran.append(sanitizers)
    print((f"no report: {'; '.join(ran)}" if ran else "nothing was checked") if passed else "FAILED")
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
