"""What a run does in workers: the settings choose the method, and progress comes back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bigdecon.config import NetworkConfig, TrainingConfig
from bigdecon.distributed.progress import TrainingProgress
from bigdecon.intensity import measure_intensity
from bigdecon.optics.psf import PSF
from bigdecon.running.worker_tasks import train_on_worker
from bigdecon.ssi_config import SSIConfig, SSINetworkConfig, Training
from bigdecon.volume import Volume


@pytest.mark.parametrize(
    "training",
    [
        TrainingConfig(network=NetworkConfig(2, 2, 2), patch_shape=(16, 16), steps=2),
        SSIConfig(network=SSINetworkConfig(2, 2, 2), patch_shape=(16, 16), steps=2),
    ],
    ids=["siamese", "ssi"],
)
def test_the_settings_choose_the_method(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published: list[TrainingProgress] = []
    monkeypatch.setattr(
        "bigdecon.running.worker_tasks.publish", lambda event, run_id: published.append(event)
    )
    volume = Volume.from_array(np.random.default_rng(0).normal(100, 5, (16, 16)).astype(np.float32))
    psf = PSF(np.full((3, 3), 1 / 9, np.float32))
    stats = measure_intensity([volume.stack()])
    done = train_on_worker(
        volume, psf, training, 0, "cpu", stats, tmp_path / "state", torch.get_num_threads(), "run"
    )
    assert done.config == training
    assert done.method == training.method
    assert done.stats == stats
    assert published[-1].step == 2
