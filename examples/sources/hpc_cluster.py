# %% [markdown]
# # On a Dask cluster that is there already
#
# Many HPC centres start a Dask cluster for you, or you start one in a job. All that bigdecon needs is the
# scheduler's address, or the *scheduler file* that it wrote. bigdecon has to be installed, in the same
# version, where the workers run. (To have bigdecon submit jobs to SLURM by itself, see docs/slurm.md.)
#
# The next cell starts a small cluster on this machine, so that the notebook runs anywhere; at your centre,
# set `scheduler_file` to the file of your cluster and leave the cell out.

# %%
import subprocess
import sys
import tempfile
import time
from pathlib import Path

folder = Path(tempfile.mkdtemp())
scheduler_file = folder / "scheduler.json"
place = ["--scheduler-file", str(scheduler_file)]
log = (folder / "dask.log").open("w")
scheduler = subprocess.Popen(
    [sys.executable, "-m", "distributed.cli.dask_scheduler", *place, "--host", "127.0.0.1", "--port", "0",
     "--dashboard-address", "127.0.0.1:0"],
    stdout=log, stderr=log,
)  # fmt: skip
while not scheduler_file.exists():
    time.sleep(0.1)
worker = subprocess.Popen(
    [sys.executable, "-m", "distributed.cli.dask_worker", *place, "--nthreads", "2", "--no-dashboard",
     "--local-directory", str(folder), "--preload", "bigdecon.distributed.worker_setup"],
    stdout=log, stderr=log,
)  # fmt: skip

# %%
from bigdecon import (
    RichardsonLucy,
    RunConfig,
    Volume,
    connect,
    deconvolve,
    open_volume,
    run,
    save_psf,
    write_ome_zarr,
)
from bigdecon.optics.simulation import SimulatedSource, paper_noise, paper_psf
from bigdecon.optics.specimens import SPECIMENS

psf = paper_psf(3)
image = SimulatedSource(SPECIMENS["points"], "noisy", (24, 48, 48), 0, psf.array, paper_noise(3))
save_psf(psf, folder / "psf.tif")
path = write_ome_zarr(Volume(image, "zyx", (0.406,) * 3), folder / "volume.ome.zarr").path

# %% [markdown]
# `connect` checks that somebody answers and that the workers have the same bigdecon. Within the `with`
# block the client serves for anything that Dask can do; here it computes a crop of a lazily deconvolved
# volume.

# %%
with connect(str(scheduler_file)) as connection:
    print(f"{connection.n_workers} workers, {connection.threads_per_worker} tasks at a time on each")
    print(f"dashboard: {connection.dashboard_link}")
    lazy = deconvolve(open_volume(path), RichardsonLucy(psf.array, iterations=5), block=32)
    part = connection.client.compute(lazy.source.array[:16, :24, :24]).result()
print(f"a crop of {part.shape}, computed by the cluster")

# %% [markdown]
# A whole run takes the same: the scheduler file, or its address, as `cluster`. The input and the output
# must lie where the workers see them.

# %%
result = run(
    RunConfig(
        input=str(path),
        psf=(str(folder / "psf.tif"),),
        method="richardson-lucy",
        iterations=10,
        background=0.0,
        sieve=1.0,
        cluster=str(scheduler_file),
    )
)
result

# %% [markdown]
# End what the first cell started. A cluster that somebody else runs goes on.

# %%
for process in (worker, scheduler):
    process.terminate()
    process.wait(20)
log.close()
