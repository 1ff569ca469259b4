"""Cross-core flags order the cores of a block and of a launch; without them, or with wrong ones, comes a refusal."""

import dataclasses

import numpy as np
import pytest

from tests.custom_ops.ascendc.cube_calls import Variant, compile_variants, pack
from tests.custom_ops.ascendc.emulated import READ_ONLY, WORKSPACE, WRITTEN, RefusedError


@dataclasses.dataclass(frozen=True)
class Mutant:
    """The change to cube_mixed, what the message must contain, and how it is launched."""

    changes: tuple[tuple[str, str], ...]
    message: str
    tasks: int = 5
    m: int = 8
    kernel_type: str = "KERNEL_TYPE_MIX_AIC_1_2"


SCORES_SET = "CrossCoreSetFlag<2, PIPE_FIX>(kScoresReady);"
SCORES_WAIT = "CrossCoreWaitFlag(kScoresReady);"
WEIGHTS_SET = "CrossCoreSetFlag<2, PIPE_MTE3>(kWeightsReady);"
WEIGHTS_WAIT = "CrossCoreWaitFlag(kWeightsReady);"
RACE = "without SyncAll or a cross-core flag between them"


def one_aiv_ahead(times):
    """At the end AIV0 sets its flag so often at once, AIV1 in turn with the AIC: it waits for both, each time."""
    first, second = f"{WEIGHTS_SET} }}", f"{SCORES_WAIT} }}"
    repeat = f"for (int i = 0; i < {times}; ++i) {{ "
    ahead, behind = f"{repeat}{first} {repeat}{second}", f"{repeat}{SCORES_WAIT} {first}"
    end = "WaitFlag<HardEvent::MTE3_MTE2>(EVENT_ID0);\n  }"
    return (
        ("tile_.Finish();", f"tile_.Finish(); {repeat}{SCORES_SET} {WEIGHTS_WAIT} }}"),
        (end, f"{end[:-1]} if (GetSubBlockIdx() == 0) {{ {ahead} }} else {{ {behind} }} }}"),
    )


MUTANTS = {
    "aiv_does_not_wait": Mutant(((SCORES_WAIT, ""),), RACE),
    "aic_does_not_wait": Mutant(((WEIGHTS_WAIT, ""),), "of GM buffer 'workspace', which nothing has written"),
    "scores_flag_on_wrong_pipe": Mutant(((SCORES_SET, SCORES_SET.replace("FIX", "MTE2")),), RACE),
    "weights_flag_on_wrong_pipe": Mutant(((WEIGHTS_SET, WEIGHTS_SET.replace("MTE3", "MTE2")),), RACE),
    "one_slot_for_two_tasks": Mutant((("scores_[(turn % 2)", "scores_[(turn % 1)"),), RACE),
    "aic_never_sets": Mutant(
        ((SCORES_SET, ""),), "deadlock: block 0 AIC waits for CrossCoreSetFlag of flag 1, and no core can run any more"
    ),
    "only_one_aiv_sets": Mutant(
        ((WEIGHTS_SET, f"if (GetSubBlockIdx() == 0) {{ {WEIGHTS_SET} }}"),),
        "deadlock: block 0 AIC waits for CrossCoreSetFlag of flag 1",
    ),
    "waits_for_another_flag": Mutant(((SCORES_WAIT, "CrossCoreWaitFlag(7);"),), "waits for CrossCoreSetFlag of flag"),
    "counter_overflow": Mutant(
        ((SCORES_SET, f"for (int i = 0; i < 16; ++i) {{ {SCORES_SET} }}"),),
        "the counter of flag 0 of block 0 AIV0 for block 0 AIC passes 15",
    ),
    "one_aiv_runs_ahead": Mutant(one_aiv_ahead(16), "AIC for block 1 AIV0 passes 15"),
    "one_aiv_sets_more_often": Mutant(
        ((WEIGHTS_SET, f"{WEIGHTS_SET} if (GetSubBlockIdx() == 1) {{ {WEIGHTS_SET} }}"),),
        "the kernel ends while flag 1 of block 0 AIC still counts 1 of block 0 AIV1: it was set more often than",
        tasks=1,
    ),
    "set_once_too_often": Mutant(
        ((SCORES_SET, SCORES_SET * 2),),
        "the kernel ends while flag 0 of block 0 AIV0 still counts",
        tasks=1,
    ),
    "flag_of_syncall": Mutant((("kScoresReady = 0", "kScoresReady = 12"),), "11 to 14 belong to SyncAll"),
    "flag_16": Mutant((("kScoresReady = 0", "kScoresReady = 16"),), "flagId is 16, allowed are 0 to 15"),
    "mode_1_on_aic": Mutant(((SCORES_SET, SCORES_SET.replace("<2", "<1")),), "mode 1 on an AIC core"),
    "modes_mixed": Mutant(
        ((WEIGHTS_SET, WEIGHTS_SET + "CrossCoreSetFlag<1, PIPE_MTE3>(kWeightsReady);"),),
        "flag 1 is set in mode 1 while a set in mode 2 has not been waited for",
    ),
    "pipe_of_the_other_kind": Mutant(
        ((SCORES_SET, SCORES_SET.replace("PIPE_FIX", "PIPE_V")),), "this kind of core has no pipe V"
    ),
    "without_scheduler": Mutant(
        (("KERNEL_TYPE_MIX_AIC_1_2", "KERNEL_TYPE_AIC_ONLY"),),
        "a kernel of type KERNEL_TYPE_AIC_ONLY runs without the scheduler that cross-core flags need",
        kernel_type="KERNEL_TYPE_AIC_ONLY",
    ),
    "syncall_of_vector_cores_on_aic": Mutant(((WEIGHTS_WAIT, "SyncAll();"),), "SyncAll<true> on an AIC core"),
    "syncall_on_one_side_only": Mutant(((WEIGHTS_WAIT, "SyncAll<false>();"),), "deadlock: block 0 AIC waits for"),
    "buffer_of_the_other_kind": Mutant(
        (("TBuf<TPosition::VECCALC> scores_buffer_", "TBuf<TPosition::A1> scores_buffer_"),),
        "uses L1, which this core does not have",
    ),
}
WITH_SYNCALL = tuple((flag, "SyncAll<false>();") for flag in (SCORES_SET, SCORES_WAIT, WEIGHTS_SET, WEIGHTS_WAIT))
SYNCALL_VARIANTS = {
    "syncall": WITH_SYNCALL,
    "syncall_missing_after_weights": (*WITH_SYNCALL[:2], (WEIGHTS_SET, ""), (WEIGHTS_WAIT, "")),
}


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    variants = {name: Variant("cube_mixed", mutant.changes) for name, mutant in MUTANTS.items()}
    variants |= {name: Variant("cube_mixed", changes) for name, changes in SYNCALL_VARIANTS.items()}
    variants["one_aiv_13_ahead"] = Variant("cube_mixed", one_aiv_ahead(13))
    variants["neighbours"] = Variant("cube_neighbours")
    variants["neighbours_without_wait"] = Variant("cube_neighbours", [("CrossCoreWaitFlag(0);", "")])
    variants["neighbours_in_wrong_mode"] = Variant("cube_neighbours", [("Flag<0, PIPE_MTE3>", "Flag<1, PIPE_MTE3>")])
    return compile_variants(variants, tmp_path_factory.mktemp("cross_core"))


def run_mixed(kernels, name, *, tasks=5, m=8, kernel_type="KERNEL_TYPE_MIX_AIC_1_2", blocks=2):
    """Run a variant of cube_mixed on ones; gives its output and what it should be."""
    n, d = 32, 16
    q = np.full((tasks, m, d), 1 / 16, np.float16)
    k = np.ones((tasks, n, d), np.float16)
    o = np.zeros((tasks, m, d), np.float32)
    workspace = np.zeros(blocks * 3 * m * n * 4, np.uint8)
    kernels.run(
        name,
        kernel_type,
        blocks,
        *(("q", q, READ_ONLY), ("k", k, READ_ONLY), ("v", k, READ_ONLY), ("o", o, WRITTEN)),
        *(("workspace", workspace, WORKSPACE), ("tiling", pack(tasks, m, n, d), READ_ONLY)),
    )
    return o, np.full_like(o, n * np.e)


@pytest.mark.parametrize("name", MUTANTS)
def test_refusal(kernels, name):
    mutant = MUTANTS[name]

    with pytest.raises(RefusedError) as refused:
        run_mixed(kernels, name, tasks=mutant.tasks, m=mutant.m, kernel_type=mutant.kernel_type)

    assert mutant.message in str(refused.value)


def test_syncall_of_all_cores_orders_them_too(kernels):
    o, expected = run_mixed(kernels, "syncall", tasks=2)

    np.testing.assert_allclose(o, expected, rtol=2e-3)


def test_an_aiv_may_be_as_far_ahead_as_its_semaphore_counts(kernels):
    """Here 13 times, behind those for its last two tasks."""
    o, expected = run_mixed(kernels, "one_aiv_13_ahead")

    np.testing.assert_allclose(o, expected, rtol=2e-3)


def test_missing_syncall_is_a_race(kernels):
    with pytest.raises(RefusedError, match="of GM buffer 'workspace', which nothing has written"):
        run_mixed(kernels, "syncall_missing_after_weights", tasks=2)


def run_neighbours(kernels, name, kernel_type, blocks, *, inside_block):
    cores = blocks * (2 if kernel_type == "KERNEL_TYPE_MIX_AIC_1_2" else 1)
    values = np.arange(cores * 16, dtype=np.float32).reshape(cores, 16)
    out = np.zeros_like(values)
    kernels.run(
        name,
        kernel_type,
        blocks,
        *(("in", values, READ_ONLY), ("out", out, WRITTEN), ("workspace", np.zeros_like(values), WORKSPACE)),
        ("tiling", pack(cores, inside_block), READ_ONLY),
    )
    return values, out


@pytest.mark.parametrize("kernel_type", ["KERNEL_TYPE_MIX_AIV_1_0", "KERNEL_TYPE_MIX_AIC_1_2"])
def test_mode_0_orders_all_vector_cores(kernels, kernel_type):
    values, out = run_neighbours(kernels, "neighbours", kernel_type, 4, inside_block=0)

    np.testing.assert_array_equal(out, np.roll(values, -1, axis=0))


def test_mode_1_orders_the_vector_cores_of_a_block(kernels):
    values, out = run_neighbours(kernels, "neighbours", "KERNEL_TYPE_MIX_AIC_1_2", 3, inside_block=1)

    np.testing.assert_array_equal(out, values.reshape(3, 2, 16)[:, ::-1].reshape(6, 16))


@pytest.mark.parametrize(
    ("name", "kernel_type", "inside_block", "message"),
    [
        ("neighbours_without_wait", "KERNEL_TYPE_MIX_AIV_1_0", 0, "which nothing has written"),
        ("neighbours_in_wrong_mode", "KERNEL_TYPE_MIX_AIC_1_2", 0, "which nothing has written"),
        ("neighbours", "KERNEL_TYPE_AIV_ONLY", 0, "KERNEL_TYPE_AIV_ONLY runs without the scheduler"),
        ("neighbours", "KERNEL_TYPE_MIX_AIV_1_0", 1, "mode 1 in a kernel of type KERNEL_TYPE_MIX_AIV_1_0"),
    ],
)
def test_neighbours_are_refused(kernels, name, kernel_type, inside_block, message):
    with pytest.raises(RefusedError) as refused:
        run_neighbours(kernels, name, kernel_type, 2, inside_block=inside_block)

    assert message in str(refused.value)
