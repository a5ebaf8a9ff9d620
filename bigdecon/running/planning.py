"""What a run is going to do, found out and checked before anything is written.

`prepare` opens the input, loads the PSFs, measures the brightness, and cuts the volume. All bad input
is found here; the result, a `RunPlan`, is what `bigdecon run` prints first and `pipeline.run` follows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal

from numpy.typing import NDArray

from bigdecon.config import CLASSICAL, Auto, RunConfig, TrainingConfig
from bigdecon.deconvolution.block import BlockNeeds
from bigdecon.deconvolution.classical import ClassicalMethod
from bigdecon.deconvolution.engines import choose_engine
from bigdecon.deconvolution.kept_trials import TrialFolder
from bigdecon.deconvolution.methods import classical_method
from bigdecon.deconvolution.network import NetworkNeeds
from bigdecon.deconvolution.refined import RefinedNeeds, refining_lucy
from bigdecon.deconvolution.tiling import BlockGrid
from bigdecon.deconvolution.tuning import Tuned, tune_channel
from bigdecon.diagnosis.findings import Finding
from bigdecon.diagnosis.input_checks import check_volume
from bigdecon.errors import OptionError, OutputError
from bigdecon.intensity import IntensityStats, measure_intensity
from bigdecon.io.identity import InputIdentity, input_identity
from bigdecon.io.layout import OutputLayout
from bigdecon.io.mask import Mask, open_mask
from bigdecon.io.output_folder import BOOKKEEPING
from bigdecon.io.provenance import PSFRecord, RunRecord, fingerprint, installed_versions
from bigdecon.learning.checkpoint import Checkpoint
from bigdecon.optics.psf import PSF
from bigdecon.running.block_size import (
    BlockChoice,
    Cut,
    Work,
    choose_block,
    cut_work,
    in_whole_blocks,
    with_tile,
)
from bigdecon.running.choosing import choosing_folder
from bigdecon.running.classical_settings import Tuner, tuned_from_record, tuning_of
from bigdecon.running.early_checks import check_options, choose_output
from bigdecon.running.resuming import (
    WorkRecord,
    block_before,
    changed_surroundings,
    check_files,
    find_earlier_run,
    measured_before,
)
from bigdecon.running.run_inputs import load_models, load_psfs, open_input, psf_of
from bigdecon.running.size_warnings import size_warnings
from bigdecon.running.sizing import block_side
from bigdecon.running.training_settings import training_settings
from bigdecon.running.workforce import WorkersPlanned, workers_planned
from bigdecon.ssi_config import Training
from bigdecon.storage.places import Place
from bigdecon.untrusted import reason
from bigdecon.volume import Box, Stack, Volume

__all__ = ["Measurer", "RunPlan", "prepare"]

LEAST_RANGE = 8
"""Data units that an image must span to be stored as whole numbers."""

OutputState = Literal["new", "continue", "finished"]
Measurer = Callable[..., IntensityStats]


@dataclass(frozen=True)
class RunPlan:
    """Everything about a run that is known before it starts.

    Attributes
    ----------
    config : as asked for
    volume : the input, cropped to the region of interest
    psfs, stats : one for every channel
    training : how networks are trained; None for methods without training, and for a model that is given
    tuned : settings of the classical methods, one for every channel; none for networks that nothing refines
    models : the trained networks that were given, one for every channel; else none
    block : extent of a block's core, in voxels, as asked for or chosen
    grid : how a stack is cut into blocks
    layout : of the output's arrays
    regions : boxes that are computed and written one after the other, for every stack
    engine : how blocks get their halo
    tile : extent of a network pass, in voxels; None for whole blocks
    output : folder of the result
    state : whether the output is new, to be continued, or finished
    device : torch device of the workers
    identity : of the input
    fingerprint : of everything that shapes the voxels
    bytes_per_worker : estimate of the memory that one block takes
    mask : which voxels are restored; None for all
    earlier : record of the run that is continued
    findings : what was looked at in a part of the image and in the PSFs, good or not
    block_choice : why `--block auto` chose this block; None for others, and in a run that is continued
    """

    config: RunConfig
    volume: Volume
    psfs: tuple[PSF, ...]
    stats: tuple[IntensityStats, ...]
    training: Training | None
    tuned: tuple[Tuned, ...]
    models: tuple[Checkpoint, ...]
    block: int
    grid: BlockGrid
    layout: OutputLayout
    regions: tuple[Box, ...]
    engine: Literal["map-overlap", "direct"]
    tile: int | None
    output: Place
    state: OutputState
    device: str
    identity: InputIdentity
    fingerprint: str
    bytes_per_worker: int
    mask: Mask | None = None
    earlier: RunRecord | None = None
    findings: tuple[Finding, ...] = ()
    block_choice: BlockChoice | None = None

    @property
    def bookkeeping(self) -> Place:
        """Folder, inside the output, of ledger, models and run.json."""
        return self.output / BOOKKEEPING

    @property
    def work(self) -> WorkRecord:
        """How the work is cut up."""
        return WorkRecord(self.layout, self.grid, self.regions)

    def __repr__(self) -> str:
        """Describe the plan in a line."""
        many = self.volume.n_timepoints * self.volume.n_channels * len(self.grid)
        return f"<RunPlan {self.config.method}: {many} blocks to {self.output}, {self.state}>"

    def _repr_html_(self) -> str:
        """Show the plan as a table in notebooks."""
        from bigdecon.running.plan_text import plan_html

        return plan_html(self)

    def stacks(self, channel: int) -> list[Stack]:
        """One channel at every time point."""
        times = range(self.volume.n_timepoints)
        return [self.volume.stack(timepoint=t, channel=channel) for t in times]

    def background(self, channel: int) -> float:
        """Camera's offset as the method takes it, in data units: given, chosen, or measured."""
        return self.tuned[channel].settings.background if self.tuned else self.stats[channel].background

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should look at before trusting the result, one sentence each."""
        found = []
        if self.volume.voxel_size_um is None:
            found.append(
                "the voxel sizes of volume and PSF are unknown and were assumed equal; "
                "give --voxel-size and --psf-voxel-size if they differ."
            )
        found += size_warnings(self.config, self.volume, self.psfs)
        if self.block_choice is not None and self.block_choice.warning:
            found.append(self.block_choice.warning)
        if self.state == "continue":
            found += changed_surroundings(self.earlier, installed_versions(), self.device)
        when = " when the run began" if self.state == "continue" else ""
        found += [f"the brightness was measured{when} without {s.unread}" for s in self.stats if s.unread]
        if self.mask is not None and not self.mask.covers(self.volume.spatial_shape):
            found.append(
                "the mask does not cover the whole image, by the voxel sizes and places of both; the result "
                "is 0 where there is no mask."
            )
        if (
            isinstance(self.training, TrainingConfig)
            and self.config.preset == "paper"
            and self.device == "cpu"
        ):
            found.append("the preset paper trains for days on a CPU; the preset fast is made for one.")
        found += [f"{f.sentence} {f.remedy}" for f in self.findings if f.needs_attention]
        return tuple(found)


def prepare(
    config: RunConfig,
    device: str,
    tuner: Tuner = tune_channel,
    measure: Measurer = measure_intensity,
    workers: Callable[[], WorkersPlanned] | None = None,
) -> RunPlan:
    """Check everything that can be checked, and decide everything that can be decided.

    Parameters
    ----------
    config : what was asked for
    device : torch device of the workers
    tuner : chooses what is "auto" in classical methods; only reads
    measure : finds out how bright a channel is, as `measure_intensity` does
    workers : tells who will work, for `--block auto`; by default those that would be started for `config`

    Raises
    ------
    InputError
        one of its kinds, for bad input; nothing has been written then
    """
    check_options(config)
    volume = open_input(config)
    psfs = load_psfs(config, volume)
    models = load_models(config, psfs, volume)
    psfs = psfs or tuple(psf_of(model) for model in models)
    output = choose_output(config)
    classical = config.method in CLASSICAL
    ndim = len(volume.spatial_axes)
    trains = not (classical or models)
    training = training_settings(config, ndim=ndim, accelerator=device != "cpu") if trains else None
    mask = open_mask(config.mask, volume, by_shape=config.voxel_size is not None) if config.mask else None
    identity = input_identity(volume)
    records = [PSFRecord(psf.name, psf.sha256, psf.corrections, psf.voxel_size_um) for psf in psfs]
    chosen = {
        "models": [model.sha256 for model in models],
        "training": training and asdict(training),
        "mask": mask and [mask.digest, mask.scale, mask.offset],
    }
    mark = fingerprint(config.as_dict(), records, identity, chosen)
    earlier = find_earlier_run(config, output, mark, records, identity, mask.digest if mask else None)
    stats = measured_before(earlier) or tuple(
        _measure(volume, channel, config.background, measure) for channel in range(volume.n_channels)
    )
    _check_range(config, stats)
    backgrounds = [s.background for s in stats]
    findings = check_volume(volume, psfs, backgrounds, backgrounds_given=config.background != "auto")
    tuned: tuple[Tuned, ...] = ()
    if classical or config.refine is not None:
        keep = TrialFolder(choosing_folder(output), writes=not config.dry_run)
        tuned = _tune(config, volume, psfs, stats, device, earlier, partial(tuner, keep=keep))
    if classical:
        stats = tuple(replace(s, background=t.settings.background) for s, t in zip(stats, tuned, strict=True))
    network = models[0].config if models else training
    methods, needs = _methods(config, [m.psf for m in models] or [p.array for p in psfs], tuned, network)
    work = Work(config, volume, methods, needs, network, device)
    cut, choice = _cut(work, earlier, workers or partial(workers_planned, config, device))
    if earlier:
        check_files(earlier, output, volume, cut.grid, identity)
    return RunPlan(
        config=config,
        volume=volume,
        psfs=psfs,
        stats=stats,
        training=training,
        tuned=tuned,
        models=models,
        block=cut.side,
        grid=cut.grid,
        layout=cut.layout,
        regions=cut.regions,
        engine=choose_engine(volume.stack(), config.tiling.engine),
        tile=cut.tile,
        output=output,
        state="new" if earlier is None else "finished" if earlier.finished else "continue",
        device=device,
        identity=identity,
        fingerprint=mark,
        bytes_per_worker=cut.block_bytes,
        mask=mask,
        earlier=earlier,
        findings=findings,
        block_choice=choice,
    )


def _cut(
    work: Work, earlier: RunRecord | None, workers: Callable[[], WorkersPlanned]
) -> tuple[Cut, BlockChoice | None]:
    """Cut the work as asked for, as the run to be continued did, or as the memory of the workers allows."""
    automatic = work.config.tiling.block == "auto"
    if earlier:  # Another machine, with other memory, keeps to the blocks and tiles of the first.
        side = block_before(earlier) if automatic else block_side(work.config.tiling, work.ndim)
        tile = earlier.provenance["configuration"]["chosen"]["tile"]
        return with_tile(work, in_whole_blocks(work, side), tile), None
    if automatic:
        return choose_block(work, workers())
    return cut_work(work, block_side(work.config.tiling, work.ndim)), None


def _check_range(config: RunConfig, stats: Sequence[IntensityStats]) -> None:
    """Refuse what does not suit the brightness.

    A background that leaves nothing or, for methods that know no negative light, is negative; whole
    numbers for an image that is scaled to fractions, of which nearly nothing would be left.
    """
    if config.background != "auto":
        brightest = max(s.maximum for s in stats)
        if config.background >= brightest:
            raise OptionError(
                f"--background is {config.background:g}, but the brightest voxel is {brightest:.4g}; "
                "give the level of the dark places, or leave it out."
            )
        if config.background < 0 and config.refine is not None:
            raise OptionError(f"--background is {config.background:g}; with --refine it is at least 0.")
    widest = max(stats, key=lambda s: s.maximum - s.minimum)
    if config.dtype != "float32" and widest.maximum - widest.minimum < LEAST_RANGE:
        raise OptionError(
            f"the input's values run from {widest.minimum:.4g} to {widest.maximum:.4g}, too narrow a range "
            f"for whole numbers; leave out --dtype {config.dtype}."
        )


def _measure(volume: Volume, channel: int, background: float | Auto, measure: Measurer) -> IntensityStats:
    """Measure the brightness of a channel; a background that was given replaces the measured one."""
    stacks = [volume.stack(timepoint=t, channel=channel) for t in range(volume.n_timepoints)]
    many = volume.n_channels > 1
    stats = measure(stacks, name=f"channel {channel} of {volume.name}" if many else volume.name)
    return stats if background == "auto" else replace(stats, background=background)


def _methods(
    config: RunConfig, psfs: Sequence[NDArray[Any]], tuned: Sequence[Tuned], network: Training | None
) -> tuple[Sequence[ClassicalMethod], Sequence[BlockNeeds]]:
    """Give the classical methods of all channels, if any, and what all methods need of the blocks."""
    if network is None:
        pairs = zip(psfs, tuned, strict=True)
        methods = [classical_method(config.method, psf, t.settings) for psf, t in pairs]
        return methods, methods
    needs = NetworkNeeds.of(network.network)
    if config.refine is None:
        return [], [needs]
    lucy = [refining_lucy(psf, config.refine) for psf in psfs]
    return lucy, [RefinedNeeds(needs, method) for method in lucy]


def _tune(
    config: RunConfig,
    volume: Volume,
    psfs: Sequence[PSF],
    stats: Sequence[IntensityStats],
    device: str,
    earlier: RunRecord | None,
    tuner: Tuner,
) -> tuple[Tuned, ...]:
    """Choose the settings of a classical method for every channel, or take up those of an interrupted run."""
    if earlier:
        try:
            return tuned_from_record(earlier.provenance["configuration"]["chosen"]["tuned"])
        except (AttributeError, KeyError, TypeError) as error:
            raise OutputError(
                f"run.json of the output is damaged: what was chosen cannot be read ({reason(error)}); "
                "--overwrite starts anew."
            ) from error
    times = range(volume.n_timepoints)
    return tuple(
        tuner(
            [volume.stack(timepoint=t, channel=channel) for t in times],
            psf.array,
            tuning_of(config, stats[channel], device),
        )
        for channel, psf in enumerate(psfs)
    )
