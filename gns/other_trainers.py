"""What becomes of the options that people know from the scripts of 3DGS, Taming 3DGS and their kin.

Consulted where a command has no such option of its own. Each is answered: passed over, with a line that says why it is
not needed, or refused in favour of its counterpart. Nothing that would change a result is passed over.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from gns.errors import UserError


@dataclass(frozen=True)
class Answer:
    """What to say of an option that gns does not have."""

    text: str  # follows the option's name
    values: int = 0  # words that belong to it
    refused: bool = False  # an error instead of a line


Answers = Mapping[str, Answer]  # by the option, with hyphens


def _passed_over(text: str, *, values: int = 0) -> Answer:
    return Answer(f"is not needed: {text}", values)


def _refused(text: str, *, values: int = 1) -> Answer:
    return Answer(text, values, refused=True)


_PHOTOS = _passed_over("photos lie where they fit, in the GPU's memory or the main memory", values=1)
_IN_KERNELS = _passed_over("the kernels compute it, and are tested against plain torch")
_VIEWER = _passed_over("--viewer shows the training in a browser of this machine, at --viewer-port", values=1)
_CHECKED = _passed_over("losses and models are checked throughout, and an error is always a sentence")
_EXPOSURE = _refused(
    "is --exposure of train.py here; held-out photos are then scored with colours fitted on their left halves too",
    values=0,
)
_EXPOSURE_RATE = _passed_over("--exposure solves for each photo's colours, without a rate", values=1)
_DEPTH = _refused("is --depths of train.py here, for one scene at a time", values=0)
_RATE = _refused("has no counterpart: learning rates belong to the method, see --method and gns/rules; leave it out")
_GROWTH = _refused(
    "has no counterpart: when and how far a model grows follows from --final-budget and --iterations, with which the "
    "whole schedule scales; leave it out"
)
_OF_THE_RUN = _refused("is what the model was trained with, and stays so: leave it out")

TRAIN: Answers = {
    "--data-device": _PHOTOS,
    "--convert-SHs-python": _IN_KERNELS,
    "--compute-cov3D-python": _IN_KERNELS,
    "--convert-cov3D-python": _IN_KERNELS,
    "--debug": _CHECKED,
    "--debug-from": Answer(_CHECKED.text, values=1),
    "--detect-anomaly": _CHECKED,
    "--ip": _VIEWER,
    "--port": _VIEWER,
    "--disable-viewer": Answer(_VIEWER.text),
    "--websockets": Answer(_VIEWER.text),
    "--optimizer-type": _passed_over(
        "there is one optimiser, whose steps are fused as those of sparse_adam are", values=1
    ),
    "--position-lr-init": _RATE,
    "--position-lr-final": _RATE,
    "--position-lr-delay-mult": _RATE,
    "--position-lr-max-steps": _RATE,
    "--feature-lr": _RATE,
    "--shfeature-lr": _RATE,
    "--opacity-lr": _RATE,
    "--scaling-lr": _RATE,
    "--rotation-lr": _RATE,
    "--lambda-dssim": _refused("has no counterpart: the loss is 0.8 L1 + 0.2 (1 − SSIM), as published; leave it out"),
    "--percent-dense": _GROWTH,
    "--densification-interval": _GROWTH,
    "--opacity-reset-interval": _GROWTH,
    "--densify-from-iter": _GROWTH,
    "--densify-until-iter": _GROWTH,
    "--densify-grad-threshold": _GROWTH,
    "--train-test-exp": _EXPOSURE,
    "--exposure-lr-init": _EXPOSURE_RATE,
    "--exposure-lr-final": _EXPOSURE_RATE,
    "--exposure-lr-delay-steps": _EXPOSURE_RATE,
    "--exposure-lr-delay-mult": _EXPOSURE_RATE,
    "--budget": _refused("is --final-budget here: how many Gaussians (300k) or bytes (20MB) the finished model has"),
    "--mode": _refused(
        "is not needed: --final-budget is always the final count; for a multiple of COLMAP's points give the product, "
        "which gns inspect helps to find"
    ),
    "--cap-max": _refused("is --final-budget here, of --method mcmc too"),
    "--cams": _passed_over("how many views an edge survey looks at belongs to the method", values=1),
    "--ho-iteration": _refused(
        "has no counterpart: opacities stay below 1, so that every viewer draws the model; leave it out"
    ),
    "--sh-lower": _passed_over("colours of higher degree are stepped less often where the schedule says so"),
    "--benchmark-dir": _passed_over("summary.json in the output folder has times and memory", values=1),
    "--skip-train": _refused("is an option of render.py: training renders held-out views for its report alone"),
    "--skip-test": _refused("is an option of render.py: --no-report leaves the report out"),
}

RENDER: Answers = {
    "--eval": _passed_over("config.json in the output folder says which photos are held out"),
    "--data-device": _PHOTOS,
    "--convert-SHs-python": _IN_KERNELS,
    "--compute-cov3D-python": _IN_KERNELS,
    "--convert-cov3D-python": _IN_KERNELS,
    "--debug": _CHECKED,
    "-i": _OF_THE_RUN,
    "--images": _OF_THE_RUN,
    "-r": _OF_THE_RUN,
    "--resolution": _OF_THE_RUN,
    "-w": _OF_THE_RUN,
    "--white-background": _OF_THE_RUN,
    "--sh-degree": _OF_THE_RUN,
    "--train-test-exp": _passed_over("exposures that were learned are used, and metrics.py --fit-exposure fits others"),
    "--iterations": _refused("is --iteration here: the saved model to draw"),
}

METRICS: Answers = {
    "-s": _refused("is not needed: metrics.py compares the PNGs that render.py wrote; leave it out"),
    "--source-path": _refused("is not needed: metrics.py compares the PNGs that render.py wrote; leave it out"),
    "--iteration": _refused("is not needed: metrics.py scores all that render.py wrote; leave it out"),
    "--skip-train": _passed_over("only held-out views are scored"),
    "--eval": _passed_over("only held-out views are scored"),
}

_ONE_FOLDER = _refused(
    "is --data here: one folder that holds the scenes, or folders of them; the names in the list of budgets say which "
    "data set each is of"
)
_EACH_STEP = _refused("is not needed: test.py goes on where it was, and does only what is not done; leave it out")

FULL_EVAL: Answers = {
    "--output-path": _refused("is --output here"),
    "--mipnerf360": _ONE_FOLDER,
    "-m360": _ONE_FOLDER,
    "--tanksandtemples": _ONE_FOLDER,
    "-tat": _ONE_FOLDER,
    "--deepblending": _ONE_FOLDER,
    "-db": _ONE_FOLDER,
    "--skip-training": _EACH_STEP,
    "--skip-rendering": _EACH_STEP,
    "--skip-metrics": _EACH_STEP,
    "--fast": _refused("is --schedule fast here"),
    "--use-depth": _DEPTH,
    "--use-expcomp": _EXPOSURE,
    "--aa": _refused("is --antialiasing of train.py here, for one scene at a time", values=0),
    "--dry-run": _refused("has no counterpart: --iterations 300 goes through all steps in a minute a scene"),
}

# Names of scripts, for who types them behind `gns`.
SCRIPTS = {
    "full_eval": "full_eval is gns test here: put the scenes under data/, or name their folder with --data",
}


def answered(argv: Sequence[str], answers: Answers, known: Collection[str]) -> tuple[list[str], list[str]]:
    """The words of a command line without the options that are passed over, and a sentence for each of those.

    Options in `known` are the command's own and left alone. Raises UserError with all that are refused.
    """
    kept: list[str] = []
    notes: list[str] = []
    refusals: list[str] = []
    words = iter(argv)
    for word in words:
        typed, equals, _ = word.partition("=")
        name = typed.replace("_", "-") if typed.startswith("--") else typed
        answer = None if name in known else answers.get(name)
        if answer is None:
            kept.append(word)
            continue
        (refusals if answer.refused else notes).append(f"{typed} {answer.text}")
        for _ in range(0 if equals else answer.values):
            next(words, None)
    if refusals:
        raise UserError("; ".join(refusals))
    return kept, notes


def tell(notes: Sequence[str], argv: Sequence[str]) -> None:
    """Print what was passed over to stderr, unless the command line asks for silence."""
    if "--quiet" not in argv:
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
