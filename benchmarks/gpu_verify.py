"""Verify and time the CUDA backend on an NVIDIA GPU: `python benchmarks/gpu_verify.py [--only BLOCK ...] [--out DIR]`.

Under nine minutes, for a machine that is lent for a moment. Blocks run in this order; each writes DIR/BLOCK.json when
it ends, whatever becomes of the next one, and a table comes last:

* `environment`  GPU, driver, versions, time to compile the kernels; copy bandwidth, FMA and shuffle rates
* `smoke`        one small image forward and backward against the reference
* `parity`       every kernel launch of whole iterations repeated on the CPU from the same input: names the kernel and
                 argument at fault; then pictures and gradients against the CPU backend
* `determinism`  the same iterations twice, and with any foreseen number of instances: equal bits
* `sanitizer`    compute-sanitizer's four tools on `smoke`, where it is installed; hits in kernels of others are notes
* `edge_cases`   nothing to draw, broken parameters, giants, stacks, very many tiles: against the CPU backend
* `training`     200 iterations beside the CPU backend, then 2000 alone
* `timing`       each stage and the whole iteration, 0.6 and 1.8 million Gaussians at 1.6 megapixels; memory
* `gsplat`       the same Gaussians, camera, loss and optimiser work with gsplat, where it is installed and has its
                 kernels or a toolkit to build them with
* `photos`       a short run on photos (--scene), where they are there

Exit status 1 if a block failed. A block whose tools are absent says so and counts as skipped.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.gpu.bench import ROOT, Bench, Failed, Result, Skipped
from benchmarks.gpu.determinism import determinism
from benchmarks.gpu.edge_cases import edge_cases
from benchmarks.gpu.environment import environment
from benchmarks.gpu.gsplat import gsplat
from benchmarks.gpu.parity import parity
from benchmarks.gpu.photos import photos
from benchmarks.gpu.sanitizer import sanitizer
from benchmarks.gpu.smoke import smoke
from benchmarks.gpu.timing import timing
from benchmarks.gpu.training import training
from gns.errors import UserError
from gns.gaussian_renderer.devices import pick_device

BLOCKS: dict[str, Callable[[Bench], Result]] = {
    block.__name__: block
    for block in (
        environment,
        smoke,
        parity,
        determinism,
        sanitizer,
        edge_cases,
        training,
        timing,
        gsplat,
        photos,
    )
}


def run_block(name: str, bench: Bench, machine: Result) -> Result:
    """Run one block and write its JSON, also when it fails."""
    start = time.perf_counter()
    record: Result = {"block": name, **machine}
    try:
        record |= {"passed": True, "result": BLOCKS[name](bench)}
    except Skipped as reason:
        record |= {"passed": None, "skipped": str(reason)}
    except Failed as fault:
        record |= {"passed": False, "error": str(fault), "result": fault.result}
    except Exception as error:  # whatever it is, the other blocks are worth their time
        record |= {"passed": False, "error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
    record["seconds"] = round(time.perf_counter() - start, 2)
    bench.out.mkdir(parents=True, exist_ok=True)
    (bench.out / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    return record


def machine_of(device: torch.device) -> Result:
    """What every figure has to be read with."""

    def said(*command: str) -> str:
        try:
            return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False).stdout.strip()
        except OSError:
            return ""

    query = "--query-gpu=driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu"
    return {
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else "none",
        "capability": ".".join(map(str, torch.cuda.get_device_capability(device))) if device.type == "cuda" else "",
        "driver, clocks, power": said("nvidia-smi", query, "--format=csv,noheader"),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "commit": said("git", "rev-parse", "--short", "HEAD"),
    }


def print_table(records: Sequence[Result]) -> None:
    """A line a block, then the times."""
    for record in records:
        verdict = {True: "passed", False: "FAILED", None: "skipped"}[record["passed"]]
        why = record.get("error", record.get("skipped", ""))
        print(f"{record['block']:<12} {verdict:<8} {record['seconds']:7.1f} s  {why}")
    for record in records:
        if record["block"] == "timing" and record["passed"]:
            for label, figures in record["result"].items():
                print(f"\n{label}, {figures['instances']:,} instances: {figures['iteration']:.3f} ms an iteration")
                for stage, value in figures["stages"].items():
                    print(f"  {stage:<18} {value:8.3f} ms")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).resolve().parent
    parser.add_argument("--only", nargs="+", choices=BLOCKS, default=list(BLOCKS), help="these blocks alone")
    parser.add_argument("--out", type=Path, default=here / "results" / "gpu", help="folder of the JSON files")
    parser.add_argument("--device", default="cuda", help="cuda or cuda:NUMBER")
    parser.add_argument("--scene", type=Path, default=ROOT.parent / "shared" / "data" / "fox480", help="of photos")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        bench = Bench(pick_device(options.device), options.out, options.scene)
    except UserError as error:
        parser.error(str(error))
    machine = machine_of(bench.device)
    records = []
    for name in options.only:
        print(f"{name} ...", flush=True)
        records.append(run_block(name, bench, machine))
    print_table(records)
    return int(any(record["passed"] is False for record in records))


if __name__ == "__main__":
    raise SystemExit(main())
