"""What each command says of bad input: one sentence with the value, the limit and the remedy."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from bigdecon_cli import main as entry

from tests.runs import SIZE, kernel, specimen, write_image

QUICK = ("--method", "richardson-lucy", "--iterations", 2, "--sieve", 0, "--device", "cpu", "--no-report",
         "--workers", 1, "--threads", 1, "--dashboard-address", "none")  # fmt: skip
SIAMESE = ("--method", "siamese", "--device", "cpu", "--no-report", "--workers", 1, "--threads", 1)


def write_tiff(path, array, size=SIZE, **options):
    tifffile.imwrite(
        path,
        array,
        imagej=True,
        resolution=(1 / size[-1], 1 / size[-2]),
        metadata={"unit": "um", "spacing": size[0], **({"axes": "ZYX"} if array.ndim == 3 else {}), **options},
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with small images, good and bad."""
    folder = tmp_path_factory.mktemp("bad")
    good, psf = specimen(), kernel()
    write_image(folder / "good.ome.zarr", good)
    write_image(folder / "plane.ome.zarr", good[9], "yx")
    write_tiff(folder / "good.tif", good)
    write_tiff(folder / "psf.tif", psf)
    write_tiff(folder / "psf-large.tif", np.pad(psf, 20))
    write_tiff(folder / "psf-flat.tif", np.ones_like(psf))
    tifffile.imwrite(folder / "psf-sizeless.tif", psf)
    write_tiff(folder / "dark.tif", np.full_like(good, 3))
    tifffile.imwrite(folder / "complex.tif", good.astype("complex64"))
    np.save(folder / "complex-psf.npy", psf.astype("complex64"))
    tifffile.imwrite(folder / "channels.tif", np.stack([good[9]] * 2), photometric="minisblack")
    tifffile.imwrite(folder / "colour.tif", np.zeros((20, 30, 3), "uint8"), photometric="rgb")
    (folder / "nothing.tif").touch()
    (folder / "cut.tif").write_bytes((folder / "good.tif").read_bytes()[:20000])
    (folder / "head.tif").write_bytes((folder / "good.tif").read_bytes()[:6])
    (folder / "image.czi").write_bytes(b"ZISRAWFILE" + bytes(100))
    (folder / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    (folder / "folder").mkdir()
    (folder / "folder" / "letter.txt").write_text("keep me")
    (folder / "taken" / "noisy.ome.zarr").mkdir(parents=True)
    (folder / "taken" / "noisy.ome.zarr" / "letter.txt").write_text("keep me")
    (folder / "planes").mkdir()
    for z in (0, 1, 3):
        tifffile.imwrite(folder / "planes" / f"a_z{z:02}.tif", good[z])
    (folder / "uneven").mkdir()
    for z in range(3):
        tifffile.imwrite(folder / "uneven" / f"a_z{z:02}.tif", good[z, : 20 + z])
    tifffile.imwrite(folder / "mask-plane.tif", np.ones((40, 44), "uint8"), photometric="minisblack")
    write_image(folder / "mask-empty.ome.zarr", np.zeros(good.shape, "uint8"))
    zarr.create_array(folder / "plain.zarr", shape=(4, 5), dtype="uint8")
    zarr.create_group(folder / "group.zarr")
    (folder / "broken.ome.zarr").mkdir()
    (folder / "broken.ome.zarr" / "zarr.json").write_text("{")
    (folder / "unknown.toml").write_text('metod = "siamese"\n')
    (folder / "broken.toml").write_text("method = siamese\n")
    (folder / "type.toml").write_text('block = "large"\n')
    (folder / "list.toml").write_text("method = [1, 2]\n")
    (folder / "garbage.json").write_text("{garbage")
    (folder / "empty.json").write_text("{}")
    (folder / "list.json").write_text("[]")
    (folder / "torn.safetensors").write_bytes(bytes(range(64)))
    (folder / "torn.json").write_text("{}")
    write_tiff(folder / "no-beads.tif", np.random.default_rng(0).poisson(100, (24, 40, 40)).astype("uint16"))
    (folder / "script.py").write_text("print(1)\n")
    return folder


@pytest.fixture
def bigdecon(monkeypatch, capsys):
    """Run a command in this process; gives the exit code, stdout and stderr."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["bigdecon", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            entry.main()
        return ended.value.code, *capsys.readouterr()

    return call


def listing(folder):
    return sorted((str(p), p.stat().st_mtime_ns) for p in Path(folder).rglob("*"))


def run(image, *arguments, psf="psf.tif", how=QUICK):
    return ["run", image, "--psf", psf, *how, *arguments]


ON_SLURM = ("--cluster", "slurm")
MAKE = ("psf", "make", "richards-wolf", "-o", "new.tif")


def make(na=1.4, wavelength=0.5, index=1.515, size=(0.2, 0.1, 0.1), shape=(9, 9, 9)):
    return [*MAKE, "--na", na, "--wavelength", wavelength, "--refractive-index", index, "--voxel-size", *size,
            "--shape", *shape]  # fmt: skip


BEADS = ("psf", "from-beads", "no-beads.tif", "-o", "new.tif")
BAD = {
    # images
    "image missing": (run("gone.tif"), ""),
    "image in a missing folder": (run("gone/image.tif"), ""),
    "folder without an image": (run("folder"), ""),
    "Zarr group without an image": (run("group.zarr"), ""),
    "broken metadata": (run("broken.ome.zarr"), ""),
    "format of a vendor": (run("image.czi"), ""),
    "PNG": (run("image.png"), ""),
    "a text": (run("script.py"), ""),
    "empty file": (run("nothing.tif"), ""),
    "cut TIFF": (run("cut.tif"), ""),
    "TIFF of its head": (run("head.tif"), ""),
    "constant": (run("dark.tif"), ""),
    "complex": (run("complex.tif", "--voxel-size", *SIZE), ""),
    "channels or planes": (run("channels.tif"), ""),
    "plane and a PSF in 3D": (run("plane.ome.zarr"), ""),
    "colour": (run("colour.tif"), ""),
    "a pattern that finds nothing": (run("gone*.tif"), ""),
    "voxel size of two numbers": (run("good.tif", "--voxel-size", 1, 1), ""),
    "voxel size negative": (run("good.tif", "--voxel-size", -1, 1, 1), ""),
    "voxel size nan": (run("good.tif", "--voxel-size", "nan", 1, 1), ""),
    "voxel size in nm": (run("good.tif", "--voxel-size", 300, 200, 200), ""),
    "channel": (run("good.tif", "--channel", 4), ""),
    "time point": (run("good.tif", "--timepoint", 4), ""),
    "time point below 0": (run("good.tif", "--timepoint", -1), ""),
    "level": (run("good.tif", "--level", 2), ""),
    "mask missing": (run("good.tif", "--mask", "gone.tif"), ""),
    "mask of a plane": (run("good.tif", "--mask", "mask-plane.tif"), ""),
    "mask empty": (run("good.tif", "--mask", "mask-empty.ome.zarr"), ""),
    # PSFs
    "PSF complex": (run("good.tif", psf="complex-psf.npy"), ""),
    "PSF that is a folder": (run("good.tif", psf="folder"), ""),
    "PSF that is a Zarr": (run("good.tif", psf="good.ome.zarr"), ""),
    "PSF empty": (run("good.tif", psf="nothing.tif"), ""),
    "PSF flat": (run("good.tif", psf="psf-flat.tif"), ""),
    "PSF cut": (run("good.tif", psf="cut.tif"), ""),
    "PSF of unknown voxel size": (run("good.tif", psf="psf-sizeless.tif"), ""),
    "PSF voxel size in nm": (run("good.tif", "--psf-voxel-size", 300, 200, 200, psf="psf-sizeless.tif"), ""),
    # methods
    "method": (["run", "good.tif", "--psf", "psf.tif", "--method", "rl"], ""),
    "iterations 0": (run("good.tif", "--iterations", 0), ""),
    "iterations -1": (run("good.tif", "--iterations", -1), ""),
    "a million iterations": (run("good.tif", "--iterations", 1000000), ""),
    "iterations too many": (run("good.tif", "--iterations", 10**12), ""),
    "steps -1": (run("good.tif", "--steps", -1, how=SIAMESE), ""),
    "no minutes": (run("good.tif", "--train-minutes", 0, how=SIAMESE), ""),
    "weights torn": (run("good.tif", "--model", "torn.safetensors", how=SIAMESE), ""),
    "weights that are an image": (run("good.tif", "--model", "good.tif", how=SIAMESE), ""),
    "background of words": (run("good.tif", "--background", "dark"), ""),
    "seed": (run("good.tif", "--seed", "x"), ""),
    "seed below 0": (run("good.tif", "--seed", -3), ""),
    "blocks of -1": (run("good.tif", "--block", -1), ""),
    "halo of -1": (run("good.tif", "--halo", -1), ""),
    "halo too small": (run("good.tif", "--halo", 1), ""),
    "max failed": (run("good.tif", "--max-failed", -1), ""),
    "skip dim": (run("good.tif", "--skip-dim", "nan"), ""),
    "unknown option": (run("good.tif", "--iteration", 4), ""),
    "two images": (run("good.tif", "good.ome.zarr"), ""),
    "no image": (["run"], ""),
    # output
    "output is the input": (run("good.ome.zarr", "-o", "good.ome.zarr"), ""),
    "output in the input": (run("good.ome.zarr", "-o", "good.ome.zarr/0"), ""),
    "output of others": (run("good.tif", "-o", "folder"), ""),
    "output without name": (run("good.tif", "-o", ""), ""),
    "output not writable": (run("good.tif", "-o", "/proc/x.ome.zarr"), ""),
    "type of output": (run("good.tif", "--dtype", "uint12"), ""),
    "log file in a missing folder": (run("good.tif", "--log-file", "gone/run.log"), ""),
    "log file is a folder": (run("good.tif", "--log-file", "folder"), ""),
    # settings in files
    "config missing": (run("good.tif", "--config", "gone.toml"), ""),
    "config with an unknown key": (run("good.tif", "--config", "unknown.toml"), ""),
    "config that is no TOML": (run("good.tif", "--config", "broken.toml"), ""),
    "config with a wrong type": (run("good.tif", "--config", "type.toml"), ""),
    "config with a list": (["run", "good.tif", "--psf", "psf.tif", "--config", "list.toml"], ""),
    "config that is an image": (run("good.tif", "--config", "good.tif"), ""),
    "settings saved over a file": (run("good.tif", "--save-config", "unknown.toml"), ""),
    "settings saved in a missing folder": (run("good.tif", "--save-config", "gone/run.toml"), ""),
    # clusters
    "cluster": (run("good.tif", "--cluster", "sge"), ""),
    "address without port": (run("good.tif", "--cluster", "tcp://localhost"), ""),
    "address without host": (run("good.tif", "--cluster", "tcp://:8786"), ""),
    "address with letters for a port": (run("good.tif", "--cluster", "tcp://localhost:port"), ""),
    "scheduler file missing": (run("good.tif", "--cluster", "gone.json"), ""),
    "scheduler file of garbage": (run("good.tif", "--cluster", "garbage.json"), ""),
    "scheduler file without address": (run("good.tif", "--cluster", "empty.json"), ""),
    "scheduler file of a list": (run("good.tif", "--cluster", "list.json"), ""),
    "walltime": (run("good.tif", *ON_SLURM, "--walltime", "soon"), ""),
    "walltime without SLURM": (run("good.tif", "--walltime", "1:00:00"), ""),
    "jobs": (run("good.tif", *ON_SLURM, "--jobs", "4:1"), ""),
    "memory of a job": (run("good.tif", *ON_SLURM, "--mem", "much"), ""),
    "gres": (run("good.tif", *ON_SLURM, "--gres", "4"), ""),
    "memory limit": (run("good.tif", "--memory-limit", "-4GiB"), ""),
    "memory limit too small": (run("good.tif", "--memory-limit", "4"), ""),
    "memory limit of letters": (run("good.tif", "--memory-limit", "4 elephants"), ""),
    "threads": (run("good.tif", "--threads", 0), ""),
    "GPUs": (run("good.tif", "--gpus", -2), ""),
    "device": (run("good.tif", "--device", "gpu"), ""),
    # other commands
    "command": (["rnu"], ""),
    "plan missing": (["plan", "gone.tif", "--psf", "psf.tif"], ""),
    "plan of no PSF": (["plan", "good.tif"], ""),
    "info missing": (["info", "gone.tif"], ""),
    "info of a folder": (["info", "folder"], ""),
    "info of a text": (["info", "script.py"], ""),
    "info of a bucket": (["info", "s3://"], ""),
    "info of an unknown scheme": (["info", "ftp://host/a.zarr"], ""),
    "status missing": (["status", "gone.ome.zarr"], ""),
    "status of an image": (["status", "good.ome.zarr"], ""),
    "status of a TIFF": (["status", "good.tif"], ""),
    "verify missing": (["verify", "gone.ome.zarr"], ""),
    "verify of an image": (["verify", "good.ome.zarr"], ""),
    "verify with no threads": (["verify", "good.ome.zarr", "--threads", 0], ""),
    "report missing": (["report", "gone.ome.zarr"], ""),
    "report of an image": (["report", "good.ome.zarr"], ""),
    "report of a TIFF": (["report", "good.tif"], ""),
    "report as PDF": (["report", "good.ome.zarr", "-o", "a.pdf"], ""),
    "shell": (["completion", "tcsh"], ""),
    "no shell": (["completion"], ""),
    "view missing": (["view", "gone.ome.zarr"], ""),
    "view of a TIFF": (["view", "good.tif"], ""),
    "view on a port that cannot be": (["view", "good.ome.zarr", "--port", 70000, "--no-browser"], ""),
    "view of a foreign host": (["view", "good.ome.zarr", "--host", "192.0.2.1", "--no-browser"], ""),
    "convert missing": (["convert", "gone.tif", "new.ome.zarr"], ""),
    "convert to an unknown format": (["convert", "good.tif", "new.png"], ""),
    "convert to no format": (["convert", "good.tif", "new"], ""),
    "convert onto itself": (["convert", "good.tif", "good.tif", "--overwrite"], ""),
    "convert onto others": (["convert", "good.tif", "folder"], ""),
    "convert onto a TIFF": (["convert", "good.ome.zarr", "psf.tif"], ""),
    "convert a series with a gap": (["convert", "planes", "new.ome.zarr"], ""),
    "convert a series of uneven planes": (["convert", "uneven", "new.ome.zarr"], ""),
    "convert no series": (["convert", "gone*.tif", "new.ome.zarr"], ""),
    "convert a series of unknown letters": (["convert", "planes", "new.ome.zarr", "--stack", "q"], ""),
    "convert into fractions": (["convert", "good.tif", "new.ome.zarr", "--dtype", "complex64"], ""),
    "convert a wrong region": (["convert", "good.tif", "new.ome.zarr", "--roi", "0:99,0:4,0:4"], ""),
    "evaluate missing": (["evaluate", "gone.tif", "good.tif"], ""),
    "evaluate another shape": (["evaluate", "good.tif", "psf.tif"], ""),
    "simulate over others": (["simulate", "points", "-o", "taken"], ""),
    "simulate an unknown specimen": (["simulate", "cells", "-o", "new"], ""),
    "simulate nothing": (["simulate", "points", "-o", "new", "--shape", 0, 4, 4], ""),
    "model of a PSF": (["psf", "make", "airy", "-o", "new.tif"], ""),
    "NA missing": ([*MAKE, "--wavelength", 0.5], ""),
    "NA too large": (make(na=1.6), ""),
    "NA 0": (make(na=0), ""),
    "wavelength in nm": (make(wavelength=520), ""),
    "wavelength below 0": (make(wavelength=-0.5), ""),
    "refractive index": (make(index=0.2), ""),
    "PSF voxels in nm": (make(size=(200, 100, 100)), ""),
    "PSF voxels of 0": (make(size=(0, 0.1, 0.1)), ""),
    "PSF of an even shape": (make(shape=(8, 9, 9)), ""),
    "PSF of no shape": (make(shape=(-1, 9, 9)), ""),
    "PSF of a huge shape": (make(shape=(99999, 99999, 99999)), ""),
    "PSF over a file": ([*make(), "-o", "psf.tif"], ""),
    "PSF in a missing folder": ([*make(), "-o", "gone/psf.tif"], ""),
    "PSF as PNG": ([*make(), "-o", "psf.png"], ""),
    "check missing": (["psf", "check", "gone.tif"], ""),
    "check of a text": (["psf", "check", "script.py"], ""),
    "check with half of the optics": (["psf", "check", "psf.tif", "--na", 1.4], ""),
    "no beads": (list(BEADS), ""),
    "beads missing": (["psf", "from-beads", "gone.tif", "-o", "new.tif"], ""),
    "beads of a PSF's channel": ([*BEADS, "--channel", 3], ""),
    "beads of a negative size": ([*BEADS, "--bead-diameter", -1], ""),
    "no more than 0 beads": ([*BEADS, "--max-beads", 0], ""),
}
