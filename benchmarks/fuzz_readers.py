"""Coverage-guided fuzzing of every reader of files (needs `pip install ".[fuzz]"`, which brings atheris).

    python -m benchmarks.fuzz_readers --seconds 3600                 # of processor time, each target in turn
    python -m benchmarks.fuzz_readers "model.ply" --seconds 60

A target begins with whole files (`gns.testing.fuzzing`) and the corpus of tests/fuzz/corpus, and goes on with whatever
reaches new code. Anything but a result or a UserError ends it, as do 20 seconds or 4 GB for one file: the file is kept
in --findings, and the exit status is 1. With --keep the corpus, reduced to what still reaches new code and to files of
at most 4 KB, is written back.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

_LARGEST = 4096  # bytes of a file that is kept


def fuzz_one(name: str, arguments: list[str]) -> None:
    """Fuzz one target in this process, for good. `arguments` are libFuzzer's."""
    import atheris

    with atheris.instrument_imports(include=["gns.arguments", "gns.run_folder", "gns.scene", "gns.utils"]):
        from gns.testing.fuzzing import scratch_folder, targets

        target = targets()[name]
    folder = scratch_folder()
    path = target.prepare(folder)
    atheris.Setup([sys.argv[0], *arguments], lambda content: target.try_on(path, content) and None)
    atheris.Fuzz()


def _fuzz(name: str, seconds: int, findings: Path, *, keep: bool) -> tuple[int, int, int]:
    """Fuzz one target in a process of its own: (files tried, files that reach new code, 1 where a defect was found)."""
    from gns.testing.fuzzing import corpus_of, store_corpus, targets

    with tempfile.TemporaryDirectory() as work_name:
        work = Path(work_name)
        inputs, reduced = work / "inputs", work / "reduced"
        for folder in (inputs, reduced, findings):
            folder.mkdir(parents=True, exist_ok=True)
        for index, content in enumerate([*targets()[name].seeds, *corpus_of(name)]):
            (inputs / f"seed-{index}").write_bytes(content)
        limits = ["-timeout=20", "-rss_limit_mb=4096", f"-artifact_prefix={findings}/{name.replace(' ', '-')}-"]
        told = _child(name, [*limits, f"-max_total_time={seconds}", "-print_final_stats=1", str(inputs)])
        tried = int((re.findall(r"number_of_executed_units: (\d+)", told) or re.findall(r"#(\d+)", told) or ["0"])[-1])
        failed = "ERROR: libFuzzer" in told or "Uncaught Python exception" in told
        if failed:
            (findings / f"{name.replace(' ', '-')}.txt").write_text(told)
        reached = len(list(inputs.iterdir()))
        if keep:
            _child(name, ["-merge=1", f"-max_len={_LARGEST}", str(reduced), str(inputs)])
            store_corpus(name, [path.read_bytes() for path in sorted(reduced.iterdir())])
    return tried, reached, int(failed)


def _child(name: str, arguments: list[str]) -> str:
    """What a child of this module says while it fuzzes."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.fuzz_readers", "--child", name, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return done.stdout.decode(errors="replace")


def main() -> int:
    """Fuzz the targets named, or all; see the module's docstring."""
    if sys.argv[1:2] == ["--child"]:
        fuzz_one(sys.argv[2], sys.argv[3:])
        return 0
    from gns.testing.fuzzing import targets

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(targets())}")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--findings", type=Path, default=Path("build/fuzz"), help="where files go that show a defect")
    parser.add_argument("--keep", action="store_true", help="write the corpus back")
    options = parser.parse_args()
    if unknown := [name for name in options.targets if name not in targets()]:
        parser.error(f"no target is called {unknown[0]}")
    shutil.rmtree(options.findings, ignore_errors=True)
    failed = 0
    for name in options.targets or targets():
        tried, reached, bad = _fuzz(name, options.seconds, options.findings.resolve(), keep=options.keep)
        print(f"{name:20} {tried:9,} files, {reached:5,} reached new code" + ("  DEFECT" if bad else ""), flush=True)
        failed += bad
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
