"""Coverage-guided fuzzing of every reader of files (needs `pip install ".[fuzz]"`, which brings atheris).

    python -m benchmarks.fuzz_readers --seconds 3600                 # each target in turn, of the clock
    python -m benchmarks.fuzz_readers "model.ply" --seconds 60
    python -m benchmarks.fuzz_readers --sum                          # what was tried so far, as a table

A target begins with whole files (`gns.testing.fuzzing`) and the corpus of tests/fuzz/corpus, and goes on with whatever
reaches new code. Anything but a result or a UserError ends it, as do 20 seconds or 4 GB for one file: the file is added
to --findings with a report beside it, and the exit status is 1. With --keep the corpus, reduced to what still reaches
new code and to the smaller files, is written back. Processor seconds and files are added to those of earlier runs in
--record.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import shlex
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from gns.utils.atomic_files import write_text

_LARGEST = 4096  # bytes of a file that is kept
RECORD = Path("benchmarks/results/fuzzing.json")

# The readers by the kind of file: each kind is to be fuzzed for an hour of processor time.
KINDS = {
    "COLMAP, binary": ("colmap cameras.bin", "colmap images.bin", "colmap points3D.bin"),
    "COLMAP, text": ("colmap cameras.txt", "colmap images.txt", "colmap points3D.txt"),
    "transforms.json": ("transforms.json",),
    "PLY": ("model.ply", "points.ply"),
    "checkpoint": ("checkpoint",),
    "configuration, lists and logs": ("budget.txt", "cfg_args", "config.json", "log.jsonl", "results.json"),
    "pictures": ("depth map", "image", "rendered picture"),
}


@dataclass(frozen=True)
class Effort:
    """What was tried on a target."""

    seconds: float = 0.0  # of a processor: the clock tells little on a machine with other work
    files: int = 0
    defects: int = 0

    def __add__(self, other: Effort) -> Effort:
        return Effort(round(self.seconds + other.seconds, 1), self.files + other.files, self.defects + other.defects)


def read_record(path: Path) -> dict[str, Effort]:
    """What was tried by target, in all runs that were recorded at `path`."""
    if not path.exists():
        return {}
    return {name: Effort(**effort) for name, effort in json.loads(path.read_text(encoding="utf-8")).items()}


def add_to_record(path: Path, name: str, effort: Effort) -> None:
    """Add what was tried on a target to what was recorded before."""
    record = read_record(path)
    record[name] = record.get(name, Effort()) + effort
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({name: asdict(effort) for name, effort in sorted(record.items())}, indent=2) + "\n"
    write_text(path, text)


def by_kind(record: dict[str, Effort]) -> dict[str, Effort]:
    """The same, all readers of a kind of file together."""
    return {kind: sum((record.get(name, Effort()) for name in names), Effort()) for kind, names in KINDS.items()}


def as_table(record: dict[str, Effort]) -> str:
    """A record as Markdown."""
    rows = [f"| {name} | {each.seconds / 60:.1f} | {each.files:,} | {each.defects} |" for name, each in record.items()]
    return "\n".join(["| reader | processor minutes | files | defects |", "| --- | ---: | ---: | ---: |", *rows])


def child_command(name: str, folder: Path) -> list[str]:
    """The words that fuzz one target in the scratch `folder`; libFuzzer's arguments follow."""
    return [sys.executable, "-W", "ignore", "-m", "benchmarks.fuzz_readers", "--child", name, str(folder)]


def write_launcher(path: Path, name: str, folder: Path) -> None:
    """A program that does it: libFuzzer runs its own first word again when it reduces a corpus."""
    words = child_command(name, folder)
    path.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n', encoding="utf-8")
    path.chmod(0o700)


def fuzz_one(name: str, scratch: Path, arguments: list[str]) -> None:
    """Fuzz one target in this process, for good. `arguments` are libFuzzer's."""
    import atheris

    # atheris 3 never frees what an instrumented comparison of arrays gives: hundreds of kilobytes for a photo of a lens
    # with distortion, until the limit of memory ends the run as if the reader were at fault.
    ours, arrays_alone = ["gns.arguments", "gns.run_folder", "gns.scene", "gns.utils"], ["gns.utils.undistortion"]
    with atheris.instrument_imports(include=ours, exclude=arrays_alone):
        from gns.testing.fuzzing import targets

        target = targets()[name]
    own = Path(tempfile.mkdtemp(dir=scratch))
    path = target.prepare(own / "files")
    launcher = own / "again"
    write_launcher(launcher, name, scratch)
    atheris.Setup([str(launcher), *arguments], lambda content: target.try_on(path, content) and None)
    atheris.Fuzz()


def _fuzz(name: str, seconds: int, findings: Path, *, keep: bool) -> tuple[Effort, int]:
    """Fuzz one target in a process of its own: what was tried, and how many files reach new code."""
    from gns.testing.fuzzing import corpus_of, scratch_folder, store_corpus, targets

    with tempfile.TemporaryDirectory() as work_name, scratch_folder() as scratch:
        work = Path(work_name)
        inputs, reduced = work / "inputs", work / "reduced"
        for folder in (inputs, reduced, findings):
            folder.mkdir(parents=True, exist_ok=True)
        for index, content in enumerate([*targets()[name].seeds, *corpus_of(name)]):
            (inputs / f"seed-{index}").write_bytes(content)
        limits = ["-timeout=20", "-rss_limit_mb=4096", f"-artifact_prefix={findings}/{name.replace(' ', '-')}-"]
        begun = _processor_seconds()
        told = _child(name, scratch, [*limits, f"-max_total_time={seconds}", "-print_final_stats=1", str(inputs)])
        spent = _processor_seconds() - begun
        tried = int((re.findall(r"number_of_executed_units: (\d+)", told) or re.findall(r"#(\d+)", told) or ["0"])[-1])
        failed = "ERROR: libFuzzer" in told or "Uncaught Python exception" in told
        if failed:
            written = re.findall(r"Test unit written to (.+)", told)
            report = Path(f"{written[-1]}.txt") if written else findings / f"{name.replace(' ', '-')}.txt"
            report.write_text(told)
        reached = len(list(inputs.iterdir()))
        if keep:
            _child(name, scratch, ["-merge=1", f"-max_len={_LARGEST}", str(reduced), str(inputs)])
            if not any(reduced.iterdir()):
                raise SystemExit(f"nothing is left of the corpus of {name}: it stays as it is")
            store_corpus(name, [path.read_bytes() for path in sorted(reduced.iterdir())])
    return Effort(spent, tried, int(failed)), reached


def _processor_seconds() -> float:
    """Of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _child(name: str, scratch: Path, arguments: list[str]) -> str:
    """What a child of this module says while it fuzzes."""
    done = subprocess.run(
        [*child_command(name, scratch), *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    return done.stdout.decode(errors="replace")


def main() -> int:
    """Fuzz the targets named, or all; see the module's docstring."""
    if sys.argv[1:2] == ["--child"]:
        fuzz_one(sys.argv[2], Path(sys.argv[3]), sys.argv[4:])
        return 0
    from gns.testing.fuzzing import targets

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(targets())}")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--findings", type=Path, default=Path("build/fuzz"), help="where files go that show a defect")
    parser.add_argument("--keep", action="store_true", help="write the corpus back")
    parser.add_argument("--record", type=Path, default=RECORD, help="where seconds and files are added up")
    parser.add_argument("--sum", action="store_true", help="print what was recorded, and fuzz nothing")
    options = parser.parse_args()
    if options.sum:
        record = read_record(options.record)
        print(f"{as_table(by_kind(record))}\n\n{as_table(record)}")
        return 0
    if unknown := [name for name in options.targets if name not in targets()]:
        parser.error(f"no target is called {unknown[0]}")
    failed = 0
    for name in options.targets or targets():
        effort, reached = _fuzz(name, options.seconds, options.findings.resolve(), keep=options.keep)
        verdict = f"  DEFECT, see {options.findings}" if effort.defects else ""
        print(f"{name:20} {effort.files:9,} files, {reached:5,} reached new code{verdict}", flush=True)
        add_to_record(options.record, name, effort)
        failed += effort.defects
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
