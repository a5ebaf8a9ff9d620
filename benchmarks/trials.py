"""No benchmark: one trial is one method on one simulated image, scored against the truth, and kept.

The scripts tables.py, criterion.py and ablation.py are lists of trials. Every finished trial is a line of a
JSON file; a script that was stopped goes on where it was, and scripts share trials that are the same.

    image (a folder's, or filaments from a seed) --> the paper's blur and noise --> method --> scores
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import machine
import numpy as np
import scipy.ndimage
import torch
from numpy.typing import NDArray

from bigdecon.config import ClassicalSettings, LossWeights, TrainingConfig, parse_loss, training_preset
from bigdecon.deconvolution.block import Deconvolver
from bigdecon.deconvolution.held_out import errors_at_hidden, held_out_error, hide
from bigdecon.deconvolution.network import NetworkDeconvolver
from bigdecon.deconvolution.richardson_lucy import RichardsonLucy
from bigdecon.deconvolution.tuning import Tuning, tune_channel
from bigdecon.evaluation.metrics import affine_fit, evaluate, psnr
from bigdecon.intensity import IntensityStats, measure_intensity
from bigdecon.io.png import read_png
from bigdecon.learning.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from bigdecon.learning.ssi import train_ssi
from bigdecon.learning.training import train
from bigdecon.optics.blur import Blur
from bigdecon.optics.psf import PSF
from bigdecon.optics.simulation import SimulatedSource, paper_noise, paper_psf, simulate_image
from bigdecon.optics.specimens import SPECIMENS
from bigdecon.ssi_config import ssi_preset
from bigdecon.volume import Volume

__all__ = [
    "Data",
    "Settings",
    "Trial",
    "add_options",
    "images",
    "images_in",
    "run_trials",
    "settings_for",
    "simulated",
    "volumes",
]

HERE = Path(__file__).parent
STORE = HERE / "results" / "trials.jsonl"
MODELS = Path(os.environ["BIGDECON_TRIAL_MODELS"]) if "BIGDECON_TRIAL_MODELS" in os.environ else None
"""Folder to keep trained networks in, so that a trial can be scored anew without training."""
Image = NDArray[np.float32]

TRAINED = ("siamese", "ssi", "unrolled")

# Numbers of iterations of plain Richardson-Lucy, the paper's 2, 5, 10 and 20 among them.
PLAIN_COUNTS = (1, 2, 3, 5, 7, 10, 14, 20, 40)
REFINING_COUNTS = (5, 10, 20, 40)

# The grid over which the criterion is tested: backgrounds as parts of the measured one, sieves in voxels,
# numbers of accelerated iterations.
GRID_BACKGROUNDS = (0.0, 0.5, 1.0, 1.5)
GRID_SIEVES = (0.0, 0.75, 1.5)
GRID_COUNTS = (2, 5, 10, 20, 40)


@dataclass(frozen=True)
class Data:
    """What is blurred and noised.

    Attributes
    ----------
    name : of a specimen, or the path of a grey image
    shape : of a specimen, in voxels; empty for an image, which is taken whole
    seed : of specimen and noise
    crop : largest extent of an image, around its centre; 0 for all of it
    """

    name: str
    shape: tuple[int, ...] = ()
    seed: int = 0
    crop: int = 0

    @property
    def label(self) -> str:
        """Short name, without folders."""
        return Path(self.name).stem


@dataclass(frozen=True)
class Settings:
    """The size of a training; the paper's own or a reduced one for CPUs."""

    name: str
    channels_2d: int
    channels_3d: int
    steps_2d: int
    steps_3d: int
    ssi_steps: int
    batch_2d: int
    batch_3d: int
    patch_3d: int


CPU = Settings("reduced, for a CPU", 16, 16, 300, 250, 250, 4, 1, 48)
QUICK = Settings("a few steps, to try the script", 4, 4, 4, 4, 4, 1, 1, 16)
PAPER = Settings("the paper's", 96, 48, 3000, 15000, 3000, 16, 4, 64)


@dataclass(frozen=True)
class Trial:
    """One method on one image.

    Attributes
    ----------
    data : the image
    method : as on the command line, or "input"
    options : what differs from the method's defaults; for trained methods `loss` and names of `CHANGES`
    settings : size of a training
    """

    data: Data
    method: str
    options: dict[str, Any] = field(default_factory=dict)
    settings: Settings = CPU

    @property
    def key(self) -> str:
        """Identity: everything but the place of the image's file."""
        content = asdict(self)
        content["data"]["name"] = self.data.label
        if self.method not in TRAINED:
            content["settings"] = None
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]


def images_in(folder: Path | None, crop: int = 0) -> list[Data]:
    """List a folder's PNG images; three simulated ones where there is no folder."""
    files = sorted(folder.glob("*.png")) if folder else []
    if files:
        return [Data(str(file), seed=0, crop=crop) for file in files]
    return [Data(kind, shape=(384, 384)) for kind in ("filaments", "nuclei", "bars")]


def simulated(data: Data) -> tuple[Image, Image, PSF]:
    """Give truth (0 to 1), noisy image and PSF by the protocol of Papkov et al. 2023."""
    ndim = len(data.shape) or 2
    psf, noise = paper_psf(ndim), paper_noise(ndim)
    if data.shape:
        source = SimulatedSource(SPECIMENS[data.name], "noisy", data.shape, data.seed, psf.array, noise)
        whole = tuple(slice(0, n) for n in data.shape)
        return source.truth[whole], source[whole], psf
    pair = simulate_image(np.asarray(read_png(Path(data.name))), psf.array, noise, seed=data.seed)
    side = data.crop or max(pair.truth.shape)
    box = tuple(slice(max(0, (n - side) // 2), max(0, (n - side) // 2) + side) for n in pair.truth.shape)
    return np.ascontiguousarray(pair.truth[box]), np.ascontiguousarray(pair.noisy[box]), psf


# --- methods -------------------------------------------------------------------------------------


def training_of(trial: Trial, ndim: int) -> TrainingConfig:
    """Fill in a Siamese training: the paper's on a GPU, else bigdecon's preset for CPUs, made smaller."""
    size, flat = trial.settings, ndim == 2
    if size.name == PAPER.name:
        config = training_preset("paper", ndim=ndim, accelerator=True)
    else:
        base = training_preset("fast", ndim=ndim, accelerator=False)
        network = replace(base.network, channels=size.channels_2d if flat else size.channels_3d)
        steps, batch = (size.steps_2d, size.batch_2d) if flat else (size.steps_3d, size.batch_3d)
        patch = base.patch_shape if flat else (size.patch_3d,) * 3
        config = replace(base, network=network, steps=steps, batch=batch, patch_shape=patch)
    loss = trial.options.get("loss")
    if loss:
        config = replace(config, loss=parse_loss(loss) if isinstance(loss, str) else LossWeights(**loss))
    config = replace(config, steps=trial.options.get("steps", config.steps))
    for name in trial.options.get("changes", ()):
        config = CHANGES[name](config) if name in CHANGES else config
    return replace(config, seed=trial.data.seed)


BY_HIDDEN_VOXELS = "background chosen by hidden voxels"

CHANGES: dict[str, Callable[[TrainingConfig], TrainingConfig]] = {
    "losses over whole patches": lambda c: replace(c, valid_losses=False),
    "no augmentation": lambda c: replace(c, augment=False),
    BY_HIDDEN_VOXELS: lambda c: c,  # see `_train`
    "no bound": lambda c: replace(c, loss=replace(c.loss, bound_d=0.0)),
}
"""Changes of a training by name; that of the PSF is made in `_restore_by_network`."""


def _off_centre(psf: PSF) -> PSF:
    """Move the PSF by half a voxel along every axis, as that of the published code is."""
    array = scipy.ndimage.shift(psf.array, 0.5, order=3).clip(0)
    return PSF(np.ascontiguousarray(array / array.sum(), np.float32), psf.voxel_size_um, "half a voxel off")


def _train(trial: Trial, noisy: Image, psf: PSF, device: str) -> tuple[Deconvolver, dict[str, Any]]:
    volume = Volume.from_array(noisy)
    if trial.method == "ssi":
        ssi = ssi_preset("fast", ndim=noisy.ndim, accelerator=False)
        if trial.settings.name == PAPER.name:
            ssi = ssi_preset("paper", ndim=noisy.ndim, accelerator=True)
        elif noisy.ndim == 3:
            ssi = replace(ssi, patch_shape=(trial.settings.patch_3d,) * 3)
        ssi = replace(ssi, steps=trial.settings.ssi_steps, seed=trial.data.seed)
        checkpoint = _kept(trial, lambda: train_ssi(volume, psf, ssi, device=device))
        size: dict[str, Any] = {"channels": ssi.network.channels, "steps": checkpoint.curve[-1].step}
    else:
        config = training_of(trial, noisy.ndim)
        if trial.method == "unrolled":
            return _train_unrolled(trial, config, noisy, psf, device)
        stats = _stats(noisy)
        if BY_HIDDEN_VOXELS in trial.options.get("changes", ()):
            stats = replace(stats, background=_tuned_background(noisy, psf, device))
        checkpoint = _kept(trial, lambda: train(volume, psf, config, device=device, stats=stats))
        size = {"channels": config.network.channels, "steps": checkpoint.curve[-1].step}
        size["TFLOP"] = _operations(config, noisy.ndim) * size["steps"]
    size["seconds_training"] = checkpoint.seconds
    size["held_out_in_training"] = checkpoint.curve[-1].held_out_error
    return NetworkDeconvolver(checkpoint, device=device), size


def _kept(trial: Trial, make: Callable[[], Checkpoint]) -> Checkpoint:
    """Take a trained network from the folder where they are kept, or train it and keep it there."""
    if MODELS is None:
        return make()
    path = MODELS / f"{trial.key}.safetensors"
    if path.exists():
        return load_checkpoint(path)
    checkpoint = make()
    save_checkpoint(checkpoint, path)
    return checkpoint


def _train_unrolled(
    trial: Trial, config: TrainingConfig, noisy: Image, psf: PSF, device: str
) -> tuple[Deconvolver, dict[str, Any]]:
    """Train a network that corrects Richardson-Lucy from within (see unrolled.py), its settings tuned."""
    from unrolled import train_unrolled

    classical = replace(trial, method="richardson-lucy", options={})
    chosen = _restore_tuned(classical, noisy, psf, device)["chosen"]
    started = time.perf_counter()
    method = train_unrolled(Volume.from_array(noisy), psf, config, ClassicalSettings(**chosen), device)
    seconds = time.perf_counter() - started
    return method, {"steps": config.steps, "chosen": chosen, "seconds_training": seconds}


def _operations(config: TrainingConfig, ndim: int) -> float:
    """Count the floating point operations of a training step's convolutions, in TFLOP."""
    from torch.utils.flop_counter import FlopCounterMode

    from bigdecon.learning.unet import UNet

    passes = config.loss.needs_masked_pass + config.loss.needs_unmasked_pass
    with torch.device("meta"):
        network = UNet(config.network)
        patch = torch.empty(1, 1, *config.patch_shape[-ndim:])
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network.eval()(patch)
    return float(3 * passes * config.batch * counter.get_total_flops() / 1e12)


def _restore(trial: Trial, noisy: Image, psf: PSF, device: str) -> dict[str, Any]:
    """Run the method; gives results by name, and what else is to be kept."""
    if trial.method == "input":
        return {"results": {"": noisy}}
    if trial.method == "grid of richardson-lucy":
        return {"results": {}, "grid": _grid(trial, noisy, psf, device)}
    if trial.method == "plain richardson-lucy":
        ways = RichardsonLucy(psf.array, device=device).iterates(noisy, PLAIN_COUNTS)
        return {"results": {str(k): result for k, result in ways}}
    if trial.method in TRAINED:
        return _restore_by_network(trial, noisy, psf, device)
    return _restore_tuned(trial, noisy, psf, device)


def _restore_by_network(trial: Trial, noisy: Image, psf: PSF, device: str) -> dict[str, Any]:
    changes = trial.options.get("changes", ())
    used = _off_centre(psf) if "PSF half a voxel off its centre" in changes else psf
    method, kept = _train(trial, noisy, used, device)
    started = time.perf_counter()
    restored = method(noisy)
    kept["seconds_inference"] = time.perf_counter() - started
    results = {"": restored}
    fraction = 0.005 if trial.method == "siamese" else 0.1
    sample = hide(noisy, psf.array, seed=trial.data.seed, fraction=fraction)
    error = held_out_error(method, [sample], psf.array)
    kept["held_out"] = error._asdict()
    if trial.method == "siamese" and not trial.options:
        results |= _refined(noisy, restored, psf, device)
    return {"results": results, **kept}


def _tuned_background(noisy: Image, psf: PSF, device: str) -> float:
    """Choose the camera's offset by hidden voxels, as the tuned Richardson-Lucy does."""
    guess = ClassicalSettings(background=max(0.0, _stats(noisy).background), accelerate=True)
    tuning = Tuning("richardson-lucy", guess, ("background",), device=device)
    return tune_channel([Volume.from_array(noisy).stack()], psf.array, tuning).settings.background


def _refined(noisy: Image, restored: Image, psf: PSF, device: str) -> dict[str, Image]:
    """Blur the network's result again, which leaves the image without its noise, and sharpen that."""
    background = _tuned_background(noisy, psf, device)
    x = torch.from_numpy(restored - np.float32(background))[None, None]
    again = Blur(psf.array).forward(x, "replicate")[0, 0].numpy() + np.float32(background)
    method = RichardsonLucy(psf.array, background=background, accelerate=True, device=device)
    return {f"refined {k}": result for k, result in method.iterates(again, REFINING_COUNTS)}


def _grid(trial: Trial, noisy: Image, psf: PSF, device: str) -> list[dict[str, Any]]:
    """Score every setting of a grid that was fixed beforehand: against the truth, and by hidden voxels."""
    truth = simulated(trial.data)[0]
    measured = max(0.0, _stats(noisy).background)
    sample = hide(noisy, psf.array, seed=trial.data.seed)
    rows = []
    for factor, sieve in itertools.product(GRID_BACKGROUNDS, GRID_SIEVES):
        background = factor * measured
        method = RichardsonLucy(psf.array, background=background, sieve=sieve, accelerate=True, device=device)
        ways = (method.iterates(image, GRID_COUNTS) for image in (noisy, sample.shown))
        for (k, restored), (_, from_shown) in zip(*ways, strict=True):
            errors = errors_at_hidden(sample, from_shown, psf.array, background)
            rows.append(
                {
                    "background": background,
                    "sieve": sieve,
                    "iterations": k,
                    "psnr": evaluate_psnr(restored, truth),
                    "held_out": float(errors.mean()),
                    "standard_error": float(errors.std(ddof=1) / len(errors) ** 0.5),
                }
            )
    return rows


def evaluate_psnr(restored: Image, truth: Image) -> float:
    """Give the PSNR after the affine fit, for a range of 1."""
    return psnr(affine_fit(restored, truth).apply(restored), truth, data_range=1.0)


def _restore_tuned(trial: Trial, noisy: Image, psf: PSF, device: str) -> dict[str, Any]:
    from bigdecon.config import RunConfig
    from bigdecon.deconvolution.methods import classical_method
    from bigdecon.running.classical_settings import tuning_of

    options = dict(trial.options)
    if options.pop("changes", ()):  # the only one that classical methods know
        psf = _off_centre(psf)
    config = RunConfig("", (), method=trial.method, seed=trial.data.seed, **options)
    started = time.perf_counter()
    tuning = tuning_of(config, _stats(noisy), device)
    tuned = tune_channel([Volume.from_array(noisy).stack()], psf.array, tuning)
    seconds = time.perf_counter() - started
    method = classical_method(trial.method, psf.array, tuned.settings, device)
    started = time.perf_counter()
    restored = method(noisy)
    return {
        "results": {"": restored},
        "seconds_tuning": seconds,
        "seconds_inference": time.perf_counter() - started,
        "chosen": asdict(tuned.settings),
    }


def _stats(noisy: Image) -> IntensityStats:
    return measure_intensity([Volume.from_array(noisy).stack()])


# --- running and keeping -------------------------------------------------------------------------


def carry_out(trial: Trial, device: str, threads: int) -> dict[str, Any]:
    """Do one trial; gives its record."""
    torch.set_num_threads(threads)
    truth, noisy, psf = simulated(trial.data)
    found = _restore(trial, noisy, psf, device)
    scores = {}
    for name, image in found.pop("results").items():
        both = evaluate(image, truth, data_range=1.0)
        scores[name] = {"plain": _finite(asdict(both.plain)), "affine": _finite(asdict(both.affine))}
    record = {"key": trial.key, **asdict(trial), "scores": scores, **found}
    record["data"]["name"] = trial.data.label
    return record | {"shape_seen": list(truth.shape), "device": device, "threads": threads}


def _finite(scores: dict[str, Any]) -> dict[str, Any]:
    return {k: v if v is None or math.isfinite(v) else None for k, v in scores.items()}


def run_trials(trials: Iterable[Trial], options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Do the trials that are not in the store yet; gives the records of all, by key."""
    if options.store is None:  # tries do not belong among the results
        options.store = Path(tempfile.gettempdir()) / "quick.jsonl" if options.quick else STORE
    wanted = {trial.key: trial for trial in trials}
    records = read_store(options.store)
    missing = [trial for key, trial in wanted.items() if key not in records]
    print(f"{len(wanted)} trials, {len(missing)} to do", flush=True)
    described = machine.describe()
    context = multiprocessing.get_context("forkserver")  # as safe as "spawn", and imports torch only once
    context.set_forkserver_preload(["bigdecon.pipeline", "torch._dynamo"])
    options.store.parent.mkdir(parents=True, exist_ok=True)
    if options.store.exists() and not options.store.read_bytes().endswith(b"\n"):
        with options.store.open("a") as store:  # the last line is torn: its trial is done again
            store.write("\n")
    failed = []
    with ProcessPoolExecutor(options.jobs, mp_context=context) as pool:
        futures = [pool.submit(carry_out, trial, options.device, options.threads) for trial in missing]
        for number, future in enumerate(as_completed(futures), 1):
            if future.exception() is not None:  # the others go on
                failed.append(future)
                print(f"{number}/{len(missing)} failed: {future.exception()!r}", flush=True)
                continue
            record = future.result() | {"commit": described["commit"], "machine": described["machine"]}
            with options.store.open("a") as store:
                store.write(json.dumps(record) + "\n")
            records[record["key"]] = record
            best = max((s["affine"]["psnr"] or 0 for s in record["scores"].values()), default=0)
            label = f"{record['data']['name']} {record['data']['seed']}"
            what = record["options"].get("loss", "")
            print(f"{number}/{len(missing)} {label}: {record['method']} {what} {best:.2f} dB", flush=True)
    for future in failed:
        future.result()
    return {key: records[key] for key in wanted}


def read_store(path: Path) -> dict[str, dict[str, Any]]:
    """Read the finished trials; a torn last line is left aside."""
    records = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        records[record["key"]] = record
    return records


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that all the scripts have."""
    parser.add_argument("--images", type=Path, help="folder of grey PNG images for 2D [default: simulated]")
    parser.add_argument("--quick", action="store_true", help="tiny images and few steps: tries the script")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--jobs", type=int, default=1, help="trials at a time, each a process")
    parser.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 2) // 2))
    parser.add_argument("--seeds", type=int, default=3, help="of 3D volumes and networks")
    parser.add_argument(
        "--store", type=Path, help=f"finished trials, a JSON line each [default: {STORE.name}]"
    )


def settings_for(options: argparse.Namespace) -> Settings:
    """Choose the paper's size on a GPU, else the reduced one."""
    return QUICK if options.quick else PAPER if options.device != "cpu" else CPU


def volumes(options: argparse.Namespace) -> list[Data]:
    """Name filaments in 3D, one volume a seed: of the paper's shape on a GPU, else a sixteenth of it."""
    shape = (8, 24, 24) if options.quick else (128, 256, 512) if options.device != "cpu" else (64, 128, 128)
    return [Data("filaments", shape, seed) for seed in range(1 if options.quick else options.seeds)]


def images(options: argparse.Namespace) -> Sequence[Data]:
    """List the 2D images; with --quick the first two, cropped."""
    if options.quick:
        return [replace(d, crop=48, shape=d.shape and (48, 48)) for d in images_in(options.images)[:2]]
    return images_in(options.images)
