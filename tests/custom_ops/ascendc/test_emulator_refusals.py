"""The emulator runs three right kernels, and refuses each of their mutants with a message that says why."""

import re

import numpy as np
import pytest

from tests.custom_ops.ascendc.emulated import (
    AIV_ONLY,
    KERNELS,
    MIX_AIV_1_0,
    WORKSPACE,
    WRITTEN,
    Argument,
    RefusedError,
    call_kernel,
    load_library,
    names,
    start_build,
)

BLOCKS = 4
ELEMENTS = 512
"""Of each block."""

REFUSALS = {
    "queue_mutant": {
        "NoBarrierAfterCast": "Exp: pipe V reads .* pipe V wrote before, without PipeBarrier<PIPE_V>",
        "NoBarrierBeforeCast": "Cast: pipe V reads .* pipe V wrote before, without PipeBarrier<PIPE_V>",
        "EnqueueMissing": "DeQue: the queue at VECIN is empty, EnQue is missing",
        "DequeueMissing": "Cast: reads byte 1024 of UB, which was never written in this block",
        "FreeMissing": "end of TPipe: a tensor of VECIN is still allocated, FreeTensor is missing",
        "UsedAfterFree": "Cast: src is a LocalTensor of VECIN that was freed",
        "QueueDepthExceeded": "EnQue: the queue at VECOUT already holds 2 tensors, its depth is 2",
        "TooManyAllocated": "AllocTensor: all 2 buffers of the queue at VECIN are in use, FreeTensor is missing",
        "StaysInQueue": "end of TPipe: a tensor of VECIN is still in its queue, DeQue and FreeTensor are missing",
        "ForeignTensor": "EnQue: the tensor of VECIN was not allocated from this queue",
        "UbOverflow": r"InitBuffer: buffers of \d+ bytes in UB, which has 196352",
        "TooManyBuffers": "InitBuffer: more than 64 buffers of one TPipe",
        "OddCopyLength": "DataCopy: copies 510 bytes, DataCopy needs a multiple of 32",
        "MisalignedCopy": "DataCopy: dst starts at byte 2 of UB, its address must be a multiple of 32",
        "MisalignedVector": "Exp: dst starts at byte 2052 of UB, its address must be a multiple of 32",
        "CountPastTensor": r"Cast: dst uses bytes \[0, 1280\) of a tensor of 1024 bytes at VECCALC",
        "ZeroCount": "Cast: count 0, it must be at least 1",
        "ZeroRepeats": "Exp: repeat times 0, allowed are 1 to 255",
        "TooManyRepeats": "WholeReduceSum: repeat times 256, allowed are 1 to 255",
        "ZeroMask": "Exp: mask 0, allowed are 1 to 64 elements of 4 bytes",
        "TooLargeMask": "Exp: mask 65, allowed are 1 to 64 elements of 4 bytes",
        "ZeroBits": "Exp: the mask selects no element",
        "ZeroBlockStride": "Exp: the block stride of dst is 0",
        "WrongRoundMode": "Cast: round mode CAST_RINT from half to float does not exist",
        "PartialOverlap": "Exp: dst at byte 2080 and src at byte 2048 of UB overlap in part",
        "RepeatReadsOwnOutput": "Exp: dst at byte 2304 and src at byte 2048 of UB overlap",
        "ReadUnwritten": "Cast: reads byte 480 of UB, which was never written in this block",
        "GmPastEnd": r"DataCopy: reads bytes \[4064, 4576\) of GM buffer 'x', which has 4096",
        "GmBeforeBegin": "DataCopy: the GlobalTensor's address is in none of the buffers of this launch",
        "GmReadOnly": "DataCopy: writes GM buffer 'x', which this launch may only read",
        "GmUnknown": "DataCopy: the GlobalTensor's address is in none of the buffers of this launch",
        "CompareCount": "CompareScalar: count 60 of 4-byte elements, it must fill a multiple of 256 bytes",
        "SelectScratchTaken": "Select: Select keeps 32 bytes at 188416 of UB, and buffers reach to",
        "WrongKernelType": "the kernel declares KERNEL_TYPE_MIX_AIV_1_0, the launch is KERNEL_TYPE_AIV_ONLY",
        "FlagIdOfQueue": "SetFlag: flag MTE2_V id 0 is set a second time",
        "FlagsExhausted": "AllocEventID: all 8 event ids of S_V are taken",
    },
    "type_mutant": {
        "WrongCastPair": "Cast: there is no conversion from half to bfloat16_t",
        "WrongType": "Add: element type bfloat16_t is not supported by this instruction",
    },
    "flag_mutant": {
        "NoFlagAfterLoad": "Adds: pipe V .* pipe MTE2 wrote before, without a flag MTE2_V",
        "NoFlagBeforeLoad": "DataCopy: pipe MTE2 writes .* pipe V read before, without a flag V_MTE2",
        "NoFlagBeforeStore": "DataCopy: pipe MTE3 reads .* pipe V wrote before, without a flag V_MTE3",
        "NoFlagAfterStore": "DataCopy: pipe MTE2 .* pipe MTE3 wrote before, without a flag MTE3_MTE2",
        "NoFlagBeforeScalar": "GetValue: pipe S reads .* pipe MTE2 wrote before, without a flag MTE2_S",
        "NoFlagAfterScalar": "Adds: pipe V writes .* pipe S read before, without a flag S_V",
        "NoBarrierBetweenLoads": "DataCopy: pipe MTE2 writes .* pipe MTE2 wrote before, without PipeBarrier<PIPE_MTE2>",
        "NoBarrierInGm": "DataCopy: pipe MTE3 writes .* of GM buffer 'y' .* without PipeBarrier<PIPE_MTE3>",
        "NoFlagThroughGm": "DataCopy: pipe MTE2 reads .* of GM buffer 'y' .* without a flag MTE3_MTE2",
        "FlagSetTwice": "SetFlag: flag V_MTE3 id 1 is set a second time before any WaitFlag took the first",
        "FlagNeverSet": "WaitFlag: deadlock: waits for flag V_MTE3 id 1, which nothing has set",
        "FlagLeftSet": "end of the kernel: flag V_MTE3 id 1 is still set, its WaitFlag is missing",
        "FlagOfCube": "SetFlag: this kind of core has no event M_FIX",
        "FlagIdTooLarge": "SetFlag: event id 8 of V_MTE3, allowed are 0 to 7",
        "PadTooManyBlocks": "DataCopyPad: block count 4096, at most 4095 are allowed",
        "PadTooWide": "DataCopyPad: block length 2097152 bytes, at most 2097151 are allowed",
        "PadRandomRead": "Adds: reads byte .* of UB, which was never written in this block",
    },
    "sync_mutant": {
        "NoSync": "DataCopy: reads byte 2048 of GM buffer 'workspace', which nothing has written",
        "LeavesBeforeSync": "deadlock: block 1 AIV waits for the other cores at SyncAll, and no core can run any more",
        "SyncWithoutScheduler": "SyncAll: a kernel of type KERNEL_TYPE_AIV_ONLY runs without the scheduler",
        "WorkspaceUnwritten": "DataCopy: reads byte 2016 of GM buffer 'workspace', which nothing has written",
        "ScalarNotCleaned": "they are in its data cache until DataCacheCleanAndInvalid",
        "ScalarStale": "GetValue: the scalar unit reads .* without DataCacheCleanAndInvalid after that write",
        "ScalarLeftDirty": "what SetValue wrote to GM is still in the data cache",
        "OverlappingBlocks": "block 1 AIV writes .* of GM buffer 'workspace' that block 0 AIV wrote, without SyncAll",
        "WriteWhileRead": "block 0 AIV reads .* of GM buffer 'workspace' that block 3 AIV wrote, without SyncAll",
    },
}


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mutants")
    return load_library(start_build(KERNELS / "mutants_host.cpp", folder / "mutants.so", "-O0"), folder / "mutants.so")


def run(library, kernel, mutant, strict=True, workspace_role=WORKSPACE):
    """Run a kernel as `mutant` and give its input and output."""
    rng = np.random.default_rng(0)
    dtype = np.float16 if kernel == "queue_mutant" else np.float32
    x = rng.normal(size=(BLOCKS, ELEMENTS)).astype(dtype)
    y = np.zeros(BLOCKS * ELEMENTS if kernel != "sync_mutant" else ELEMENTS + 16, dtype)
    workspace = np.zeros((BLOCKS, ELEMENTS), np.float32)
    number = names(library, "MutantNames").index(f"k{mutant}")
    tiling = np.array([number, ELEMENTS], np.int32)
    needs_sync = kernel == "sync_mutant" and mutant != "SyncWithoutScheduler"
    figures = call_kernel(
        library,
        kernel,
        [
            Argument("x", x),
            Argument("y", y, WRITTEN),
            Argument("workspace", workspace, workspace_role),
            Argument("tiling", tiling),
        ],
        MIX_AIV_1_0 if needs_sync else AIV_ONLY,
        BLOCKS,
        strict,
    )
    return x, y, figures


def test_the_good_queue_kernel_is_a_softmax(library):
    x, y, _ = run(library, "queue_mutant", "Good")
    exponentials = np.exp(x.reshape(-1, 256).astype(np.float64))
    expected = exponentials / exponentials.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(y.reshape(-1, 256), expected, rtol=2e-3)


def test_the_good_flag_kernel_adds_the_first_twice(library):
    x, y, _ = run(library, "flag_mutant", "Good")
    np.testing.assert_allclose(y.reshape(x.shape), x + 3 * x[:, :1], rtol=1e-5, atol=1e-5)


def test_the_good_sync_kernel_sums_all_blocks(library):
    x, y, _ = run(library, "sync_mutant", "Good")
    np.testing.assert_allclose(y[:ELEMENTS], x.sum(axis=0, dtype=np.float64), rtol=1e-5, atol=1e-5)
    assert y[ELEMENTS] == BLOCKS


@pytest.mark.parametrize(
    ("kernel", "mutant"), [(kernel, mutant) for kernel, refusals in REFUSALS.items() for mutant in refusals]
)
def test_a_mutant_is_refused(library, kernel, mutant):
    with pytest.raises(RefusedError) as caught:
        run(library, kernel, mutant)
    message = str(caught.value)
    assert re.search(REFUSALS[kernel][mutant], message), message
    assert message.startswith("deadlock") or re.match(r"block \d AIV, ", message), message


def test_a_read_before_another_block_writes_is_a_race_too(library):
    with pytest.raises(RefusedError, match="block 1 AIV writes .* 'workspace' that block 0 AIV read, without SyncAll"):
        run(library, "sync_mutant", "NoSync", workspace_role=WRITTEN)


def test_every_mutant_is_tried(library):
    tried = {f"k{mutant}" for refusals in REFUSALS.values() for mutant in refusals}
    assert tried == set(names(library, "MutantNames")) - {"kGood"}


@pytest.mark.parametrize("mutant", ["NoBarrierAfterCast", "NoBarrierBeforeCast"])
def test_vector_barriers_may_be_left_to_the_compiler(library, mutant):
    _, y, _ = run(library, "queue_mutant", mutant, strict=False)
    assert np.isfinite(y).all()


def test_scalar_flags_may_be_left_to_the_compiler(library):
    run(library, "flag_mutant", "NoFlagAfterScalar", strict=False)


def test_load_flags_may_never_be_left_out(library):
    with pytest.raises(RefusedError, match="without a flag MTE2_V"):
        run(library, "flag_mutant", "NoFlagAfterLoad", strict=False)


def test_a_refusal_leaves_the_next_launch_alone(library):
    with pytest.raises(RefusedError):
        run(library, "sync_mutant", "LeavesBeforeSync")
    test_the_good_sync_kernel_sums_all_blocks(library)
