"""What is kept while settings are chosen, and that nothing else goes with it."""

from __future__ import annotations

import pytest

from bigdecon.running.choosing import choosing_folder, forget_trials
from bigdecon.storage import places
from bigdecon.storage.places import as_place

OWN = (f"{'0a' * 16}.npz", f".tmp-{'0a' * 16}.npz-{'1b' * 16}")
OTHER = ("notes.txt", "0a.npz", f"{'0a' * 16}.npz.bak", f".tmp-{'0a' * 16}.npz", f"{'0A' * 16}.npz")


@pytest.mark.parametrize("kind", ["folder", "object store"])
def test_only_trials_are_forgotten(kind, tmp_path, request):
    root = as_place(tmp_path if kind == "folder" else request.getfixturevalue("s3"))
    output = root / "a.ome.zarr"
    folder = choosing_folder(output)
    places.make_folder(folder)
    for name in (*OWN, *OTHER):
        places.write(folder / name, b"x")
    forget_trials(output)
    assert set(places.names(folder)) == set(OTHER)
    for name in OTHER:
        places.delete(folder / name)
    places.write(folder / OWN[0], b"x")
    forget_trials(output)
    assert not places.exists(folder)
    forget_trials(output)  # where there is none
