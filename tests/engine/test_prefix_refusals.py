"""Exported prefixes that must not be imported: another model's, damaged ones, and files that are none."""

import io
import json
import zipfile

import pytest

from mindspore_paged.engine.prefix_store import export_prefix, import_prefix
from mindspore_paged.errors import CheckpointError
from tests.engine.test_prefix_store import BLOCKS, PREFIX, assert_hit, engine_of, state_of


def changed(data: bytes, **manifest) -> bytes:
    """The archive with another manifest, or with members replaced; None leaves a member out."""
    members = {key: manifest.pop(key) for key in list(manifest) if "." in key}
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(written, "w") as new:
        for name in old.namelist():
            content = members.get(name, old.read(name))
            if name == "manifest.json" and manifest:
                content = json.dumps(json.loads(content) | manifest).encode()
            if content is not None:
                new.writestr(name, content)
    return written.getvalue()


@pytest.fixture
def exported() -> bytes:
    return export_prefix(engine_of(), PREFIX)


def assert_refused(engine, source, message="^the prefix: ") -> None:
    before = state_of(engine)
    with pytest.raises(CheckpointError, match=message) as error:
        import_prefix(engine, source)
    assert "\n" not in str(error.value)
    assert state_of(engine) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fingerprint": "another"}, "the prefix: model_fingerprint is 'a model', this engine needs 'another'"),
        ({"block_size": 8}, "the prefix: block_size is 4, this engine needs 8"),
    ],
)
def test_another_model_or_block_size(exported, options, message):
    assert_refused(engine_of(**options), exported, message)


@pytest.mark.parametrize(
    "manifest",
    [
        {"format": "another"},
        {"version": 2},
        {"token_ids": None},
        {"token_ids": 5},
        {"token_ids": ["a"] * 4},
        {"token_ids": [2**40] * 4},
        {"token_ids": [[1]] * 4},
        {"token_ids": {"0": 1}},
        {"token_ids": [*PREFIX, 1, 1]},
        {"token_ids": [*PREFIX[1:], 1]},
        {"manifest.json": b"[]"},
        {"manifest.json": b"{}"},
        {"manifest.json": b"\xff"},
        {"manifest.json": b"[" * 100_000},
        {"manifest.json": None},
        {"000001.safetensors": None},
        {"000001.safetensors": b"no page"},
    ],
    ids=lambda changes: str(changes)[:40],
)
def test_another_content(exported, manifest):
    assert_refused(engine_of(), changed(exported, **manifest))


def test_pages_of_another_model_under_a_manifest_of_this_one(exported):
    engine = engine_of("another")
    assert_refused(engine, changed(exported, model_fingerprint="another"), "of model 'a model'; needed")


def test_pages_that_were_swapped(exported):
    with zipfile.ZipFile(io.BytesIO(exported)) as archive:
        first, second = (archive.read(f"00000{index}.safetensors") for index in range(2))
    assert_refused(engine_of(), changed(exported, **{"000000.safetensors": second, "000001.safetensors": first}))


def test_a_file_that_is_none(tmp_path):
    engine = engine_of()
    absent, text = tmp_path / "absent", tmp_path / "text"
    text.write_text("no archive")
    assert_refused(engine, absent, f"{absent}: cannot read the prefix: No such file or directory")
    assert_refused(engine, tmp_path, f"{tmp_path}: cannot read the prefix: Is a directory")
    assert_refused(engine, text, f"{text}: no prefix of this model, or damaged: File is not a zip file")
    assert_refused(engine, b"")


def test_every_truncation(exported):
    engine = engine_of()
    for length in range(len(exported)):
        assert_refused(engine, exported[:length])


@pytest.mark.parametrize("mask", [0x01, 0x08, 0x80, 0xFF])
def test_a_damaged_byte_anywhere(exported, mask):
    """It is refused, or is one that says nothing, such as a time stamp: then every page is right."""
    engine, num_refused = engine_of(), 0
    for place in range(len(exported)):
        damaged = bytearray(exported)
        damaged[place] ^= mask
        try:
            import_prefix(engine, bytes(damaged))
        except CheckpointError:
            num_refused += 1
            assert engine.scheduler.cache.pool.num_cached == 0
        else:
            assert_hit(engine, BLOCKS * 4)
            engine = engine_of()
    state_of(engine)
    assert num_refused > 0.8 * len(exported)
