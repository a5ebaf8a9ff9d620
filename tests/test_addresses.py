"""Addresses in records, names and messages: no password, no signature, all else as it was."""

from __future__ import annotations

import pickle

import pytest

from bigdecon.addresses import shown_url
from bigdecon.errors import VolumeError
from bigdecon.io.output_folder import default_output
from bigdecon.io.reading import open_volume

SIGNED = "https://host:81/a/b.ome.zarr?X-Amz-Credential=hush&X-Amz-Signature=hush"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (SIGNED, "https://host:81/a/b.ome.zarr"),
        ("https://me:hush@host/a.tif", "https://host/a.tif"),
        ("HTTPS://me:hu@sh@host/a.tif?hush", "HTTPS://host/a.tif"),
        ("s3://key:hush@bucket/a?versionId=hush", "s3://bucket/a"),
        (f"{SIGNED}/0/zarr.json cannot be read: no", "https://host:81/a/b.ome.zarr cannot be read: no"),
        (f"404, url='{SIGNED}'; try {SIGNED}.", "404, url='https://host:81/a/b.ome.zarr'; try "
         "https://host:81/a/b.ome.zarr."),
    ],
)  # fmt: skip
def test_what_opens_an_address_is_left_out(given, shown):
    assert shown_url(given) == shown == shown_url(shown)
    error = pickle.loads(pickle.dumps(VolumeError(given)))
    assert str(error) == shown


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/vol?.zarr",
        "s3://bucket/me@home/a",
        "/data/a?b=c@d",
        "give an http(s):// or s3:// address; a?",
        "",
    ],
)
def test_all_else_stays(text):
    assert shown_url(text) == text


def test_a_result_is_not_named_after_a_signature():
    assert default_output(SIGNED).name == "b.deconvolved.ome.zarr"


def test_an_image_that_cannot_be_opened_keeps_its_secret(monkeypatch):
    monkeypatch.setattr("bigdecon.storage.servers.FIRST_PAUSE_S", 0.01)
    with pytest.raises(VolumeError, match="cannot be read") as caught:
        open_volume("http://me:hush@127.0.0.1:1/a.zarr?X-Amz-Signature=hush")
    assert "hush" not in str(caught.value)
