"""The tests of op_host notice every mistake that it could have had."""

from dataclasses import dataclass

import pytest

from tests.custom_ops.ascendc import test_op_host as host
from tests.custom_ops.ascendc import test_op_host_compiled as compiled
from tests.custom_ops.ascendc import test_op_host_refusal_line as refusal
from tests.custom_ops.ascendc.op_host_calls import ATTENTION, OP_HOST, OP_KERNEL, compile_copy, describe, run


@dataclass(frozen=True)
class Mutant:
    """`mistake` in the place of a text of a file, and who notices it, given the driver and its definitions."""

    file: str
    text: str
    mistake: str
    check: object


def attention_case(shapes):
    """paged_attention must refuse these inputs."""
    return lambda driver, _: _assert_refused(*run(driver, ATTENTION, shapes))


def _assert_refused(launch, said):
    assert launch is None
    assert said.count("\n") == 1


def of_definitions(test):
    """A test of what paged_attention defines."""
    return lambda _, definitions: test(definitions, ATTENTION)


CACHE = "float16:9,16,4,32"
TAIL = ("int32:2,7", "int32:5", "int32:5")
ATTENTION_FILE, CHECKS, LAUNCH = "paged_attention_custom.cpp", "host_checks.h", "host_launch.h"
CONTIGUOUS = of_definitions(host.test_every_input_but_the_caches_is_made_contiguous)

MUTANTS = (
    Mutant(ATTENTION_FILE, "(query).Format(format).AutoContiguous()", "(query).Format(format)", CONTIGUOUS),
    Mutant(ATTENTION_FILE, "(cache).Format(format)", "(cache).Format(format).AutoContiguous()", CONTIGUOUS),
    Mutant(
        ATTENTION_FILE, "num_heads * head_dim <= kPagedAttentionMaxWidth", "head_dim <= kPagedAttentionMaxWidth",
        lambda driver, _: host.test_tokens_that_a_copy_cannot_stride_over(driver, 1024, 512, "query has 1024 heads"),
    ),
    Mutant(
        ATTENTION_FILE, 'RequireWidth(inputs, "query", num_heads', 'RequireWidth(inputs, "query", pages.num_kv_heads',
        lambda driver, _: host.test_tokens_that_a_copy_cannot_stride_over(driver, 1024, 512, "query has 1024 heads"),
    ),
    Mutant(
        ATTENTION_FILE, "context->SetScheduleMode(1)", "context->SetScheduleMode(0)",
        lambda driver, _: host.test_paged_attention_is_like_its_query_and_starts_all_cores_at_once(driver),
    ),
    Mutant(
        ATTENTION_FILE, "*window >= 0", "*window >= -1",
        lambda driver, _: host.test_a_negative_window(driver),
    ),
    Mutant(
        ATTENTION_FILE, "num_heads % num_kv_heads == 0", "num_heads >= num_kv_heads",
        attention_case(["float16:5,6,32", CACHE, CACHE, *TAIL]),
    ),
    Mutant(
        ATTENTION_FILE, "group <= MaxGroup(launch.tiling.cut)", "group <= 2 * MaxGroup(launch.tiling.cut)",
        attention_case(["float32:5,128,32", CACHE, CACHE, *TAIL]),
    ),
    Mutant(
        ATTENTION_FILE, "inputs.RequireShape(context_lens, {num_tokens});", "",
        attention_case(["float16:5,8,32", CACHE, CACHE, "int32:2,7", "int32:5", "int32:4"]),
    ),
    Mutant(
        ATTENTION_FILE, "cores.vector_cores = paged_host::Platform(context).GetCoreNumAiv()",
        "cores.vector_cores = paged_host::Platform(context).GetCoreNumAic()",
        lambda driver, _: host.test_paged_attention_is_like_its_query_and_starts_all_cores_at_once(driver),
    ),
    Mutant(
        LAUNCH, "of_ascend_c + launch.workspace_bytes", "0 * of_ascend_c + launch.workspace_bytes",
        lambda driver, _: host.test_only_an_op_with_a_workspace_has_that_of_ascend_c(driver, ATTENTION),
    ),
    Mutant(
        LAUNCH, "launch.tiling, launch.block_dim, 0, 0)",
        "launch.tiling, launch.block_dim, Platform(context).GetLibApiWorkSpaceSize(), 0)",
        lambda driver, _: host.test_only_an_op_with_a_workspace_has_that_of_ascend_c(driver, "ReadBlocksCustom"),
    ),
    Mutant(
        CHECKS, "pages.block_size % 16 == 0", "pages.block_size % 8 == 0",
        attention_case(["float16:5,8,32", "float16:9,24,4,32", "float16:9,24,4,32", *TAIL]),
    ),
    Mutant(
        CHECKS, "kMostInt32 / (ok_ ? pages.block_size : 1)", "kMostInt32",
        attention_case(["float16:5,8,32", "float16:200000000,16,4,32", "float16:200000000,16,4,32", *TAIL]),
    ),
    Mutant(
        CHECKS, "RequireShape(values, keys.shape);", "",
        attention_case(["float16:5,8,32", CACHE, "float16:9,16,4,16", *TAIL]),
    ),
    Mutant(
        CHECKS, "size > 0 &&", "",
        attention_case(["float16:0,8,32", CACHE, CACHE, "int32:2,7", "int32:0", "int32:0"]),
    ),
    Mutant(
        CHECKS, "if (good || !ok_) return;", "if (good) return;",
        attention_case(["float16:5,6,48", CACHE, "float16:9,16,4,16", "int32:2,7", "int32:4", "int32:3"]),
    ),
    Mutant(
        "refusal_line.h", "if (path != nullptr)", "if (path == nullptr)",
        lambda driver, _: refusal.assert_line_is_the_steps_error(driver),
    ),
)  # fmt: skip


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    refusal.forget_folder(monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(MUTANTS)), ids=[f"{each.file}:{each.text}" for each in MUTANTS])
def test_the_mistake_is_noticed(number, driver, definitions, tmp_path):
    mutant = MUTANTS[number]
    mutant.check(driver, definitions)
    text = (OP_HOST / mutant.file).read_text()
    assert mutant.text in text
    mutated = compile_copy(tmp_path, {mutant.file: text.replace(mutant.text, mutant.mistake)})
    with pytest.raises(AssertionError):
        mutant.check(mutated, describe(mutated))


UNMARKED = (
    ("paged_attention_tiling.h", "PAGED_OPS_HOST_DEVICE constexpr uint64_t SoftmaxStateFloats"),
    ("paged_attention_tiling.h", "PAGED_OPS_HOST_DEVICE constexpr uint64_t CubeExchangeBytes"),
    ("reshape_and_cache_tiling.h", "PAGED_OPS_HOST_DEVICE constexpr uint32_t PaddedScales"),
)


@pytest.mark.parametrize(("file", "text"), UNMARKED)
def test_a_missing_mark_is_noticed(file, text, tmp_path, monkeypatch):
    folders = {"op_kernel": OP_KERNEL, "op_host": OP_HOST}
    for name, folder in folders.items():
        (tmp_path / name).mkdir()
        for source in folder.iterdir():
            original = source.read_text()
            changed = original.replace(text, text.partition(" ")[2]) if source.name == file else original
            (tmp_path / name / source.name).write_text(changed)
    monkeypatch.setattr(compiled, "OP_KERNEL", tmp_path / "op_kernel")
    monkeypatch.setattr(compiled, "SHARED", compiled.included((tmp_path / "op_host").glob("*.cpp")))
    with pytest.raises(AssertionError, match=text.rpartition(" ")[2]):
        compiled.test_what_kernels_call_of_the_hosts_headers_is_marked_for_both()
