"""Prefixes that an attacker wrote, with right checksums: refused in one line, at once, and nothing is changed."""

import io
import json
import zipfile
from time import monotonic

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindspore_paged.cache.block_pool import extend_block_hashes
from mindspore_paged.cache.page_format import PageFormat, page_checksum
from mindspore_paged.engine.prefix_store import export_prefix, import_prefix
from mindspore_paged.errors import CheckpointError
from tests.cache.hostile import INVENTED_DTYPES, forged_page
from tests.engine.test_prefix_refusals import assert_refused, changed
from tests.engine.test_prefix_store import BLOCKS, PREFIX, assert_hit, engine_of, state_of

KEY = b"k" * 32
PAGE = np.array(PREFIX[:4], np.int32)  # what the oracle's page of the first block holds
CONTENT = PAGE.tobytes()
NAMES: list[bytes] = []
extend_block_hashes(NAMES, PREFIX, 4)


@pytest.fixture(scope="module")
def exported() -> bytes:
    return export_prefix(engine_of(), PREFIX)


def first_page(dtype="int32", stored="I32", shape=(4,), content=CONTENT, **metadata) -> dict:
    return {"000000.safetensors": forged_page(NAMES[0], "a model", dtype, stored, shape, content, **metadata)}


def archive_of(members: dict[str, bytes], compression=zipfile.ZIP_STORED) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return written.getvalue()


def members_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize("dtype", [*INVENTED_DTYPES, "float32"])
def test_a_type_of_its_own(exported, dtype):
    assert_refused(engine_of(), changed(exported, **first_page(dtype)), "the pages of this pool are int32")


@pytest.mark.parametrize("shape", [(), (1,), (2,), (8,), (1, 4), (4, 1), (0,)])
def test_a_shape_of_its_own(exported, shape):
    content = bytes(4 * int(np.prod(shape, dtype=int)))
    assert_refused(
        engine_of(), changed(exported, **first_page(shape=shape, content=content)), "the pages of this pool are"
    )


def test_metadata_that_is_null(exported):
    header = b'{"__metadata__":null,"page":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}'
    page = len(header).to_bytes(8, "little") + header + bytes(4)
    assert_refused(engine_of(), changed(exported, **{"000000.safetensors": page}), "does not say whose it is")


def engine_of_floats():
    """Its pages are of float32, so that they can hold what is no number."""
    engine = engine_of()
    engine.runner.pages = engine.runner.pages.astype(np.float32)
    return engine


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_page_that_holds_no_number(exported, bad):
    pages = [PAGE.astype(np.float32), np.array(PREFIX[4:8], np.float32)]

    def members():
        return {
            f"{index:06}.safetensors": PageFormat.of(page, "a model").encode(name, page, page_checksum(name, page))
            for index, (name, page) in enumerate(zip(NAMES, pages))
        }

    assert import_prefix(engine_of_floats(), changed(exported, **members())) == BLOCKS * 4
    pages[1][3] = bad
    assert_refused(engine_of_floats(), changed(exported, **members()), "000001.safetensors holds a NaN or an infinity")


@pytest.mark.parametrize(
    "manifest",
    [
        {"manifest.json": b"[" * 100_000},
        {"manifest.json": b'{"format":' * 50_000},
        {"manifest.json": b"1" * 5000},
        {"token_ids": [[[[1]]]]},
        {"token_ids": [1.0] * 8},
        {"token_ids": [True] * 8},
        {"token_ids": [10**400]},
        {"token_ids": [-1] * 8},
        {"token_ids": ["1"] * 8},
        {"token_ids": [1] * 100_000},
        {"token_ids": []},
        {"block_size": 4.0},
        {"block_size": 0},
        {"block_size": "4"},
        {"version": True},
        {"version": None},
        {"format": {}},
        {"model_fingerprint": None},
        {"model_fingerprint": "x\n" * 500},
        {"more": 1},
    ],
    ids=lambda changes: str(changes)[:40],
)
def test_a_manifest_of_other_values(exported, manifest):
    assert_refused(engine_of(), changed(exported, **manifest))


def test_members_that_are_no_pages_of_it(exported):
    members = members_of(exported)
    engine = engine_of()
    assert_refused(engine, archive_of(members | {"more": b""}), "4 members; its tokens need manifest.json and 2 pages")
    assert_refused(engine, archive_of(members | {"../../outside": b""}), "4 members")
    assert_refused(engine, archive_of(members | {"000002.safetensors": b""}), "4 members")
    renamed = {name.replace("000001", "1"): content for name, content in members.items()}
    assert_refused(engine, archive_of(renamed), "3 members; its tokens need")


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_bomb_is_not_unpacked(exported, compression):
    bomb = archive_of(members_of(exported) | {"manifest.json": bytes(1 << 20)}, compression)
    assert_refused(engine_of(), bomb, "compressed|at most")


def test_a_member_of_a_size_that_it_has_not(exported):
    """Sizes are in the directory at the end: that of the manifest is made 4 GB, then all of a page's."""
    for member in (b"manifest.json", b"000000.safetensors"):
        entry = exported.rindex(b"PK\x01\x02", 0, exported.rindex(member))
        for size in (0, 5000, 2**32 - 2, 2**32 - 1):
            data = bytearray(exported)
            data[entry + 20 : entry + 28] = size.to_bytes(4, "little") * 2
            assert_refused(engine_of(), bytes(data))


def test_members_that_overlap(exported):
    data = bytearray(exported)
    first, second = (data.rindex(b"PK\x01\x02", 0, data.rindex(b"00000%d.safe" % index)) for index in range(2))
    data[second + 42 : second + 46] = data[first + 42 : first + 46]
    assert_refused(engine_of(), bytes(data))


def test_a_directory_of_millions_of_members(exported):
    """Within what a prefix may have in bytes, so that its size alone does not refuse it."""
    engine = engine_of(num_blocks=40_000, max_model_len=100_000, max_num_seqs=1)
    entry = b"PK\x01\x02" + bytes(42)
    count = 25_000_000 // len(entry)
    end = b"PK\x05\x06" + bytes(8) + (count * len(entry)).to_bytes(4, "little") + bytes(6)
    started = monotonic()
    assert_refused(engine, entry * count + end, "its directory has .* at most .* can be right")
    assert monotonic() - started < 2


def test_what_is_too_large_is_not_read(tmp_path, exported):
    engine = engine_of()
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        file.truncate(1 << 40)
    assert_refused(engine, huge, rf"^{huge}: cannot read the prefix: {1 << 40} bytes; at most")
    assert_refused(engine, exported + bytes(10**6), "a prefix of this engine's longest sequence has at most")


def test_tokens_that_are_none_of_the_model(exported):
    assert_refused(
        engine_of(), changed(exported, token_ids=[*PREFIX[:8], 64]), "prompt token 64 is no token of this model"
    )


def mutants(draw, exported: bytes) -> bytes:
    members = members_of(exported)
    what = draw(st.sampled_from(["bytes", "member", "manifest"]))
    if what == "manifest":
        manifest = json.loads(members["manifest.json"])
        values = st.one_of(
            st.none(), st.integers(), st.sampled_from(["", "a model"]), st.lists(st.integers(0, 63), max_size=12)
        )
        manifest[draw(st.sampled_from([*manifest, "more"]))] = draw(values)
        return archive_of(members | {"manifest.json": json.dumps(manifest).encode()})
    name = draw(st.sampled_from(sorted(members)))
    data = bytearray(members[name] if what == "member" else exported)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(data) - 1))
        data[place : place + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return archive_of(members | {name: bytes(data)}) if what == "member" else bytes(data)


@given(data=st.data())
def test_a_mutant_is_the_exact_prefix_or_refused(exported, data):
    engine = engine_of()
    before = state_of(engine)
    try:
        num_tokens = import_prefix(engine, mutants(data.draw, exported))
    except CheckpointError:
        num_tokens = None
    if num_tokens is None:
        assert state_of(engine) == before
    elif num_tokens == BLOCKS * 4:
        assert_hit(engine, BLOCKS * 4)
    else:  # its tokens fill fewer blocks
        assert num_tokens < BLOCKS * 4


# Sealed by a key


def keyed(key: bytes | None):
    engine = engine_of()
    engine.page_key = key
    return engine


def test_with_a_key_only_sealed_prefixes_are_taken(exported):
    sealed = export_prefix(keyed(KEY), PREFIX)
    engine = keyed(KEY)
    assert import_prefix(engine, sealed) == BLOCKS * 4
    assert_hit(engine, BLOCKS * 4)
    assert import_prefix(keyed(None), sealed) == BLOCKS * 4
    assert_refused(keyed(KEY), exported, "not sealed with the key of this engine")
    assert_refused(keyed(b"l" * 32), sealed, "not sealed with the key of this engine")


def test_one_page_that_is_not_sealed_spoils_the_prefix(exported):
    sealed = export_prefix(keyed(KEY), PREFIX)
    mixed = changed(sealed, **{"000001.safetensors": members_of(exported)["000001.safetensors"]})
    assert_refused(keyed(KEY), mixed, "not sealed")


def test_sealed_pages_under_other_tokens(exported):
    sealed = members_of(export_prefix(keyed(KEY), PREFIX))
    page = sealed["000000.safetensors"]
    seal = json.loads(page[8 : 8 + int.from_bytes(page[:8], "little")])["__metadata__"]["seal"]
    others: list[bytes] = []
    extend_block_hashes(others, [1, 2, 3, 4], 4)
    forged = forged_page(others[0], "a model", "int32", "I32", (4,), PAGE.tobytes(), seal=seal)
    data = changed(exported, token_ids=[1, 2, 3, 4], **{"000000.safetensors": forged, "000001.safetensors": None})
    assert import_prefix(keyed(None), data) == 4, "the checksum alone does not stop it"
    assert_refused(keyed(KEY), data, "not sealed")
