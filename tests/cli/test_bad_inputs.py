"""What each command says of bad input: one sentence with the value, the limit and the remedy."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from tests.runs import SIZE, kernel, listing, specimen, write_image

QUICK = ("--method", "richardson-lucy", "--iterations", 2, "--sieve", 0, "--background", 90,
         "--device", "cpu", "--no-report", "--workers", 1, "--threads", 1,
         "--dashboard-address", "none", "--quiet")  # fmt: skip
SIAMESE = ("--method", "siamese", "--device", "cpu", "--no-report", "--workers", 1, "--threads", 1, "--quiet")


def write_tiff(path, array, size=SIZE, **options):
    tifffile.imwrite(
        path,
        array,
        imagej=True,
        resolution=(1 / size[-1], 1 / size[-2]),
        metadata={
            "unit": "um",
            "spacing": size[0],
            **({"axes": "ZYX"} if array.ndim == 3 else {}),
            **options,
        },
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
    "image missing": (run("gone.tif"), "there is no file or folder "),
    "the PSF as the image": (run("psf.tif"), "was given as the image and as its PSF"),
    "image in a missing folder": (run("gone/image.tif"), "there is no file or folder "),
    "folder without an image": (run("folder"), "give the folder of an OME-Zarr image, or a TIFF file"),
    "Zarr group without an image": (run("group.zarr"), "give the folder of an OME-Zarr image"),
    "broken metadata": (run("broken.ome.zarr"), "check the address, the permissions and the file"),
    "format of a vendor": (run("image.czi"), "open it in Fiji and save it as TIFF or OME-TIFF"),
    "PNG": (run("image.png"), "give an OME-Zarr folder, a TIFF or an OME-TIFF"),
    "a text": (run("script.py"), "give an OME-Zarr folder, a TIFF or an OME-TIFF"),
    "empty file": (run("nothing.tif"), "copy or save it again"),
    "cut TIFF": (run("cut.tif"), "copy or save it again"),
    "TIFF of its head": (run("head.tif"), "copy or save it again"),
    "constant": (run("dark.tif"), "there is nothing to restore in a constant image: check the f"),
    "complex": (run("complex.tif", "--voxel-size", *SIZE), "an image holds integers or real numbers"),
    "channels or planes": (run("channels.tif"), "give it with --voxel-size Z Y X in µm"),
    "plane and a PSF in 3D": (
        run("plane.ome.zarr"),
        "take one plane of it, such as 4 (from 0), with the peak",
    ),
    "colour": (run("colour.tif"), "save its channels as separate grey planes"),
    "a pattern that finds nothing": (run("gone*.tif"), "give a folder or a pattern such as 'planes/*.tif'"),
    "voxel size of two numbers": (run("good.tif", "--voxel-size", 1, 1), "in 2D the first is 1"),
    "voxel size negative": (
        run("good.tif", "--voxel-size", -1, 1, 1),
        "it takes 3 numbers above 0, one for each of z, y, x, in micr",
    ),
    "voxel size nan": (
        run("good.tif", "--voxel-size", "nan", 1, 1),
        "it takes 3 numbers above 0, one for each of z, y, x, in micr",
    ),
    "voxel size in nm": (
        run("good.tif", "--voxel-size", 300, 200, 200),
        "give --voxel-size in micrometres, so 300 nm is 0.3",
    ),
    "channel": (run("good.tif", "--channel", 4), "its channels are 0 'channel 0'"),
    "time point": (run("good.tif", "--timepoint", 4), "it has 1 time point (from 0)"),
    "time point below 0": (run("good.tif", "--timepoint", -1), "it has 1 time point (from 0)"),
    "level": (run("good.tif", "--level", 2), "it has 1 level (from 0)"),
    "mask missing": (run("good.tif", "--mask", "gone.tif"), "there is no file or folder "),
    "mask of a plane": (run("good.tif", "--mask", "mask-plane.tif"), "give a mask with the same axes"),
    "mask empty": (
        run("good.tif", "--mask", "mask-empty.ome.zarr"),
        "either all of it is 0, or its place (scale and translation i",
    ),
    # PSFs
    "PSF complex": (run("good.tif", psf="complex-psf.npy"), "give a TIFF, OME-TIFF or .npy file"),
    "PSF that is a folder": (run("good.tif", psf="folder"), "as a PSF, give a TIFF, OME-TIFF or .npy file"),
    "PSF that is a Zarr": (
        run("good.tif", psf="good.ome.zarr"),
        "as a PSF, give a TIFF, OME-TIFF or .npy file",
    ),
    "PSF empty": (run("good.tif", psf="nothing.tif"), "copy or save it again"),
    "PSF flat": (run("good.tif", psf="psf-flat.tif"), "a PSF needs a peak"),
    "PSF cut": (run("good.tif", psf="cut.tif"), "copy or save it again"),
    "PSF of unknown voxel size": (
        run("good.tif", psf="psf-sizeless.tif"),
        "give it with --psf-voxel-size Z Y X in µm",
    ),
    "PSF voxel size in nm": (
        run("good.tif", "--psf-voxel-size", 300, 200, 200, psf="psf-sizeless.tif"),
        "give it in micrometres, so 300 nm is 0.3",
    ),
    # methods
    "method": (
        ["run", "good.tif", "--psf", "psf.tif", "--method", "rl"],
        "'rl' is not one of 'siamese', 'ssi', 'richardson-lucy', 'wie",
    ),
    "iterations 0": (
        run("good.tif", "--iterations", 0),
        "give 1 to 10000, or leave out --iterations, which are then c",
    ),
    "iterations -1": (
        run("good.tif", "--iterations", -1),
        "give 1 to 10000, or leave out --iterations, which are then c",
    ),
    "a million iterations": (
        run("good.tif", "--iterations", 1000000),
        "give 1 to 10000, or leave out --iterations, which are then c",
    ),
    "iterations too many": (
        run("good.tif", "--iterations", 10**12),
        "give 1 to 10000, or leave out --iterations, which are then c",
    ),
    "steps -1": (run("good.tif", "--steps", -1, how=SIAMESE), "at least 1 step is needed"),
    "no minutes": (run("good.tif", "--train-minutes", 0, how=SIAMESE), "it must be above 0"),
    "weights torn": (
        run("good.tif", "--model", "torn.safetensors", how=SIAMESE),
        "it needs a .safetensors file with its .json beside it",
    ),
    "weights that are an image": (
        run("good.tif", "--model", "good.tif", how=SIAMESE),
        "it needs a .safetensors file with its .json beside it",
    ),
    "background of words": (run("good.tif", "--background", "dark"), "'dark' is neither a number nor auto"),
    "seed": (run("good.tif", "--seed", "x"), "'x' is not a valid integer"),
    "seed below 0": (run("good.tif", "--seed", -3), "it must be between 0 and 4611686018427387903"),
    "blocks of -1": (run("good.tif", "--block", -1), "a block has at least 1 voxel along every axis"),
    "halo of -1": (run("good.tif", "--halo", -1), "give as much, or leave it out"),
    "halo too small": (run("good.tif", "--halo", 1), "give as much, or leave it out"),
    "max failed": (run("good.tif", "--max-failed", -1), "it must be at least 0"),
    "skip dim": (run("good.tif", "--skip-dim", "nan"), "it must be a finite number in data units"),
    # output
    "output is the input": (run("good.ome.zarr", "-o", "good.ome.zarr"), "choose a place beside it"),
    "output in the input": (run("good.ome.zarr", "-o", "good.ome.zarr/0"), "choose a place beside it"),
    "output of others": (run("good.tif", "-o", "folder"), "choose another output"),
    "output without name": (run("good.tif", "-o", ""), "give a folder with -o, or leave out -o"),
    "output not writable": (run("good.tif", "-o", "/proc/x.ome.zarr"), "choose another output"),
    "type of output": (
        run("good.tif", "--dtype", "uint12"),
        "the output type 'uint12' is not one of float32, float64, uin",
    ),
    "log file in a missing folder": (
        run("good.tif", "--log-file", "gone/run.log"),
        "give a file in a folder that exists and is yours",
    ),
    "log file is a folder": (
        run("good.tif", "--log-file", "folder"),
        "give a file in a folder that exists and is yours",
    ),
    # settings in files
    "config missing": (
        run("good.tif", "--config", "gone.toml"),
        "give a TOML file, as --save-config writes one",
    ),
    "config with an unknown key": (run("good.tif", "--config", "unknown.toml"), "did you mean method?"),
    "config that is no TOML": (
        run("good.tif", "--config", "broken.toml"),
        'a line reads name = value, with text in "quotes"',
    ),
    "config with a wrong type": (run("good.tif", "--config", "type.toml"), "give a whole number"),
    "config with a list": (
        ["run", "good.tif", "--psf", "psf.tif", "--config", "list.toml"],
        'give one of "siamese", "ssi", "richardson-lucy", "wiener", "',
    ),
    "config that is an image": (run("good.tif", "--config", "good.tif"), "give a TOML file"),
    "settings saved over a file": (run("good.tif", "--save-config", "unknown.toml"), "choose another name"),
    "settings saved in a missing folder": (
        run("good.tif", "--save-config", "gone/run.toml"),
        "make it first",
    ),
    # clusters
    "cluster": (
        run("good.tif", "--cluster", "sge"),
        "give local, slurm, the address of a scheduler such as tcp://",
    ),
    "address without port": (
        run("good.tif", "--cluster", "tcp://localhost"),
        "give both, as in tcp://host:8786, or leave out --cluster to",
    ),
    "address without host": (
        run("good.tif", "--cluster", "tcp://:8786"),
        "give both, as in tcp://host:8786, or leave out --cluster to",
    ),
    "address with letters for a port": (
        run("good.tif", "--cluster", "tcp://localhost:port"),
        "give both, as in tcp://host:8786, or leave out --cluster to",
    ),
    "scheduler file missing": (
        run("good.tif", "--cluster", "gone.json"),
        "give the file that was named in: dask scheduler --scheduler-",
    ),
    "scheduler file of garbage": (
        run("good.tif", "--cluster", "garbage.json"),
        "give the file that was named in: dask scheduler --scheduler-",
    ),
    "scheduler file without address": (
        run("good.tif", "--cluster", "empty.json"),
        "give the file that was named in: dask scheduler --scheduler-",
    ),
    "scheduler file of a list": (
        run("good.tif", "--cluster", "list.json"),
        "give the file that was named in: dask scheduler --scheduler-",
    ),
    "walltime": (
        run("good.tif", *ON_SLURM, "--walltime", "soon"),
        "give minutes, hours:minutes:seconds as in 4:00:00, or days-h",
    ),
    "walltime without SLURM": (
        run("good.tif", "--walltime", "1:00:00"),
        "--walltime belongs to --cluster slurm, not to local",
    ),
    "jobs": (
        run("good.tif", *ON_SLURM, "--jobs", "4:1"),
        "give MIN:MAX with a MIN of at least 1 and a MAX not below it",
    ),
    "memory of a job": (run("good.tif", *ON_SLURM, "--mem", "much"), "give a size such as 64G"),
    "memory limit": (run("good.tif", "--memory-limit", "-4GiB"), "give a size such as 4GiB, or auto"),
    "memory limit too small": (
        run("good.tif", "--memory-limit", "4"),
        "give a smaller --block, or a larger --memory-limit",
    ),
    "memory limit of letters": (
        run("good.tif", "--memory-limit", "4 elephants"),
        "give a size such as 4GiB, or auto",
    ),
    "threads": (run("good.tif", "--threads", 0), "it must be at least 1"),
    "GPUs": (run("good.tif", "--gpus", -2), "it must be at least 1"),
    "device": (run("good.tif", "--device", "gpu"), "give auto, cpu, cuda, cuda:0, cuda:1, ... or mps"),
    # other commands
    "plan missing": (["plan", "gone.tif", "--psf", "psf.tif"], "there is no file or folder "),
    "plan of no PSF": (["plan", "good.tif"], "name its file with --psf, or make one with bigdecon psf make"),
    "info missing": (["info", "gone.tif"], "there is no file or folder "),
    "info of a folder": (["info", "folder"], "give the folder of an OME-Zarr image, or a TIFF file"),
    "info of a text": (["info", "script.py"], "give an OME-Zarr folder, a TIFF or an OME-TIFF"),
    "info of a bucket": (["info", "s3://"], "there is no file or folder "),
    "info of an unknown scheme": (
        ["info", "ftp://host/a.zarr"],
        "check the address, the permissions and the file",
    ),
    "status missing": (["status", "gone.ome.zarr"], "give the folder that bigdecon run wrote"),
    "status of an image": (["status", "good.ome.zarr"], "give the folder that bigdecon run wrote"),
    "status of a TIFF": (["status", "good.tif"], "give the folder that bigdecon run wrote"),
    "verify missing": (["verify", "gone.ome.zarr"], "give the folder that bigdecon run wrote"),
    "verify of an image": (["verify", "good.ome.zarr"], "give the folder that bigdecon run wrote"),
    "verify with no threads": (["verify", "good.ome.zarr", "--threads", 0], "it must be at least 1"),
    "report missing": (["report", "gone.ome.zarr"], "give the folder that bigdecon run wrote"),
    "report of an image": (["report", "good.ome.zarr"], "give the folder that bigdecon run wrote"),
    "report of a TIFF": (["report", "good.tif"], "give the folder that bigdecon run wrote"),
    "report as PDF": (["report", "good.ome.zarr", "-o", "a.pdf"], "give a name that ends in .html"),
    "shell": (["completion", "tcsh"], "'tcsh' is not one of 'bash', 'zsh', 'fish'"),
    "view missing": (["view", "gone.ome.zarr"], "there is no file or folder "),
    "view of a TIFF": (["view", "good.tif"], "first, and give that: bigdecon convert good.tif good"),
    "view on a port that cannot be": (
        ["view", "good.ome.zarr", "--port", 70000, "--no-browser"],
        "give 1024 to 65535, or 0 for any that is free",
    ),
    "view of a foreign host": (
        ["view", "good.ome.zarr", "--host", "192.0.2.1", "--no-browser"],
        "choose another port, or 0 for any that is free",
    ),
    "convert missing": (["convert", "gone.tif", "new.ome.zarr"], "there is no file or folder "),
    "convert to an unknown format": (
        ["convert", "good.tif", "new.png"],
        "let it end in .ome.zarr or .ome.tif",
    ),
    "convert to no format": (["convert", "good.tif", "new"], "let it end in .ome.zarr or .ome.tif"),
    "convert onto itself": (
        ["convert", "good.tif", "good.tif", "--overwrite", "--quiet"],
        "choose another name",
    ),
    "convert onto others": (["convert", "good.tif", "folder"], "let it end in .ome.zarr or .ome.tif"),
    "convert onto a TIFF": (
        ["convert", "good.ome.zarr", "psf.tif", "--quiet"],
        "--overwrite replaces it, or choose another output",
    ),
    "convert a series with a gap": (
        ["convert", "planes", "new.ome.zarr"],
        "put them there, or give a pattern that matches a series with",
    ),
    "convert a series of uneven planes": (
        ["convert", "uneven", "new.ome.zarr"],
        "all files of a series are alike",
    ),
    "convert no series": (
        ["convert", "gone*.tif", "new.ome.zarr"],
        "give a folder or a pattern such as 'planes/*.tif'",
    ),
    "convert a series of unknown letters": (
        ["convert", "planes", "new.ome.zarr", "--stack", "q"],
        "give one of t, c and z for each, in their order",
    ),
    "convert into fractions": (
        ["convert", "good.tif", "new.ome.zarr", "--dtype", "complex64"],
        "choose another with --dtype: float32, float64, uint8, uint16",
    ),
    "convert a wrong region": (
        ["convert", "good.tif", "new.ome.zarr", "--roi", "0:99,0:4,0:4"],
        "the range 0:99 along z does not lie within good.tif, whose z",
    ),
    "evaluate missing": (["evaluate", "gone.tif", "good.tif"], "there is no file or folder "),
    "evaluate another shape": (["evaluate", "good.tif", "psf.tif"], "they must agree"),
    "simulate over others": (["simulate", "points", "-o", "taken"], "give another folder with --output"),
    "simulate an unknown specimen": (
        ["simulate", "cells", "-o", "new"],
        "give filaments, points, nuclei or bars",
    ),
    "simulate nothing": (["simulate", "points", "-o", "new", "--shape", 0, 4, 4], "in 2D the first is 1"),
    "model of a PSF": (
        ["psf", "make", "airy", "-o", "new.tif"],
        "'airy' is not one of 'gaussian', 'born-wolf', 'gibson-lanni'",
    ),
    "NA too large": (make(na=1.6), "no such objective exists (oil has 1.515, water 1.33)"),
    "NA 0": (make(na=0), "it must be between 0.01 and 2"),
    "wavelength in nm": (make(wavelength=520), "520 nm is 0.52"),
    "wavelength below 0": (make(wavelength=-0.5), "between 0.2 and 2"),
    "refractive index": (make(index=0.2), "it must be between 1 and 2"),
    "PSF voxels in nm": (make(size=(200, 100, 100)), "give micrometres, so 200 nm is 0.2"),
    "PSF voxels of 0": (make(size=(0, 0.1, 0.1)), "it must be positive, in µm"),
    "PSF of an even shape": (make(shape=(8, 9, 9)), "all extents must be odd, such as (9, 9, 9)"),
    "PSF of no shape": (make(shape=(-1, 9, 9)), "all extents must be odd, such as (1, 9, 9)"),
    "PSF of a huge shape": (
        make(shape=(99999, 99999, 99999)),
        "give the part that holds light, such as 65 65 65",
    ),
    "PSF over a file": ([*make(), "-o", "psf.tif"], "give another name, or --overwrite to replace a file"),
    "PSF in a missing folder": (
        [*make(), "-o", "gone/psf.tif"],
        "there is no folder gone to write psf.tif to",
    ),
    "PSF as PNG": ([*make(), "-o", "psf.png"], "the PSF is written as TIFF, so psf.png must end in .tif"),
    "check missing": (["psf", "check", "gone.tif"], "as a PSF, give a TIFF, OME-TIFF or .npy file"),
    "check of a text": (["psf", "check", "script.py"], "give a TIFF, OME-TIFF or .npy file"),
    "check with half of the optics": (
        ["psf", "check", "psf.tif", "--na", 1.4],
        "the wavelength and the refractive index are missing (--na, -",
    ),
    "no beads": (list(BEADS), "check the file and --channel"),
    "beads missing": (["psf", "from-beads", "gone.tif", "-o", "new.tif"], "there is no file or folder "),
    "beads of a PSF's channel": ([*BEADS, "--channel", 3], "its channels are 0 'channel 0'"),
    "beads of a negative size": ([*BEADS, "--bead-diameter", -1], "it must be positive"),
    "no more than 0 beads": ([*BEADS, "--max-beads", 0], "at least one bead is needed"),
}

USAGE = {
    "unknown option": (run("good.tif", "--iteration", 4), "'--iteration'"),
    "two images": (run("good.tif", "good.ome.zarr"), "good.ome.zarr"),
    "no image": (["run"], "INPUT"),
    "command": (["rnu"], "Did you mean run?"),
    "no shell": (["completion"], "bash"),
    "NA missing": ([*MAKE, "--wavelength", 0.5], "--na"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_in_one_sentence_and_nothing_is_written(case, data, bigdecon, monkeypatch):
    monkeypatch.chdir(data)
    before = listing(data)
    arguments, told = BAD[case]
    code, out, err = bigdecon(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert told in err
    assert "Traceback" not in err
    assert listing(data) == before


AT_ONCE = (
    "image missing", "image in a missing folder", "the PSF as the image", "a pattern that finds nothing",
    "PSF that is a folder", "PSF that is a Zarr", "mask missing", "weights that are an image",
    "iterations -1", "output in the input", "output of others", "output without name", "type of output",
    "device",
    "log file is a folder", "walltime without SLURM", "plan missing", "plan of no PSF", "info missing",
    "status missing", "verify missing", "report missing", "view missing", "convert missing",
    "convert to an unknown format", "convert onto a TIFF", "convert no series", "evaluate missing",
    "simulate over others", "check missing", "beads missing", "PSF in a missing folder",
)  # fmt: skip
"""Mistakes that are seen without opening a file."""
CALLS = """
import json, sys
from bigdecon_cli.main import main
for case, arguments in json.load(sys.stdin).items():
    sys.argv = ["bigdecon", *arguments]
    try:
        main()
    except SystemExit as ended:
        assert ended.code == 2, (case, ended.code)
    loaded = {"torch", "dask", "zarr", "distributed", "scipy"} & set(sys.modules)
    assert not loaded, (case, loaded)
"""


def test_mistakes_that_need_no_file_are_told_before_anything_heavy_is_loaded(data):
    before = listing(data)
    calls = {case: [str(word) for word in BAD[case][0]] for case in AT_ONCE}
    done = subprocess.run(
        [sys.executable, "-c", CALLS],
        input=json.dumps(calls),
        capture_output=True,
        text=True,
        cwd=data,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    told = done.stderr.splitlines()
    assert len(told) == len(AT_ONCE)
    for case, sentence in zip(AT_ONCE, told, strict=True):
        assert sentence.startswith("Error: ")
        assert BAD[case][1] in sentence, case
    assert listing(data) == before


@pytest.mark.parametrize("case", USAGE)
def test_misuse_is_told_with_the_way_to_help(case, data, bigdecon, monkeypatch):
    monkeypatch.chdir(data)
    before = listing(data)
    arguments, told = USAGE[case]
    code, out, err = bigdecon(*arguments)
    assert (code, out) == (2, "")
    assert told in err
    assert "--help' for help" in err
    assert listing(data) == before


def test_a_port_in_use(data, bigdecon, monkeypatch):
    monkeypatch.chdir(data)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, out, err = bigdecon("view", "good.ome.zarr", "--port", port, "--no-browser")
    assert (code, out) == (2, "")
    assert f"port {port} cannot be listened on" in err
    assert "choose another port" in err


def test_an_image_in_a_folder_that_cannot_be_written(data, bigdecon, monkeypatch):
    monkeypatch.chdir(data)  # for root, only folders of the kernel cannot be written
    monkeypatch.setattr(
        "bigdecon.running.early_checks.default_output", lambda path: Path("/proc/good.ome.zarr")
    )
    code, out, err = bigdecon(*run("good.tif"))
    assert (code, out) == (2, "")
    assert err.startswith("Error: the folder /proc cannot be written (")
    assert err.endswith("); choose another output, in bigdecon run with -o FOLDER/NAME.ome.zarr.\n")
