"""What is refused where the configuration meets the device, the operators and the model; nothing is built here."""

from dataclasses import replace

import mindspore as ms
import pytest

from mindspore_paged.config import config_from_dict
from mindspore_paged.engine.building import context
from mindspore_paged.engine.building.context import set_context
from mindspore_paged.engine.building.model import build_kv_pool
from mindspore_paged.engine.building.plan import make_plan
from mindspore_paged.errors import ConfigError
from mindspore_paged.models.registry import model_config_by_name
from mindspore_paged.tensor_parallel import WHOLE, TensorParallel
from mindspore_paged.weights.lora_adapter import AdapterRoom

TINY = model_config_by_name("tiny")


def config_of(ops_backend, device_target="CPU", dtype="float32", kv_cache_dtype="auto", **cache):
    return config_from_dict(
        {
            "model": {"dtype": dtype},
            "cache": {"kv_cache_dtype": kv_cache_dtype, **cache},
            "runtime": {"ops_backend": ops_backend, "device_target": device_target},
        }
    )


def pool_of(config, model, num_blocks=2, parallel=WHOLE):
    """The pages of a rank's part of a model, for one row that has one of them."""
    plan = make_plan(config, replace(model, max_position_embeddings=config.cache.block_size), parallel)
    return build_kv_pool(replace(plan, num_blocks=num_blocks, max_num_seqs=1))


@pytest.fixture
def all_are_built(monkeypatch):
    monkeypatch.setattr(context, "require_backend", lambda backend: None)


@pytest.mark.parametrize(
    ("ops_backend", "device_target", "message"),
    [
        (
            "cpu",
            "Ascend",
            "runtime.device_target is Ascend, but runtime.ops_backend cpu runs on CPU only; "
            "set runtime.device_target to CPU, or runtime.ops_backend to ascend",
        ),
        (
            "ascend_emulator",
            "Ascend",
            "runtime.device_target is Ascend, but runtime.ops_backend ascend_emulator runs on CPU only; "
            "set runtime.device_target to CPU, or runtime.ops_backend to ascend",
        ),
        (
            "ascend",
            "CPU",
            "runtime.device_target is CPU, but runtime.ops_backend ascend runs on Ascend only; "
            "set runtime.device_target to Ascend, or runtime.ops_backend to cpu or ascend_emulator",
        ),
    ],
)
def test_operators_on_the_wrong_device(ops_backend, device_target, message):
    with pytest.raises(ConfigError) as caught:
        set_context(config_of(ops_backend, device_target))
    assert str(caught.value) == message


@pytest.mark.usefixtures("all_are_built")
@pytest.mark.parametrize("weight_dtype", ["float32", "float16", "bfloat16", "w16a16", "int8", "stored"])
@pytest.mark.parametrize(
    ("dtype", "runtime"),
    [
        ("float32", {"fused_ops": False}),
        ("float32", {"ops_backend": "ascend_emulator"}),
        ("float32", {"ops_backend": "ascend", "device_target": "Ascend"}),
        ("float16", {}),
        ("bfloat16", {}),
    ],
    ids=str,
)
def test_forms_of_weights_that_only_fused_operators_read(weight_dtype, dtype, runtime):
    config = config_from_dict(
        {
            "model": {"dtype": dtype, "weight_dtype": weight_dtype},
            "cache": {"kv_cache_dtype": "float16"},
            "runtime": runtime,
        }
    )
    with pytest.raises(ConfigError) as caught:
        set_context(config)
    assert str(caught.value) == (
        f"model.weight_dtype is {weight_dtype}, which needs fused operators: runtime.ops_backend cpu, model.dtype "
        "float32, and runtime.fused_ops not false"
    )


@pytest.mark.usefixtures("all_are_built")
@pytest.mark.parametrize(
    ("jit_level", "expected"), [("O0", {"jit_level": "O0", "infer_boost": "on"}), ("O1", {"jit_level": "O1"})]
)
def test_an_npu_runs_graphs_of_o0_in_the_runtime_for_inference(monkeypatch, jit_level, expected):
    said = {}
    monkeypatch.setattr(context.ms, "set_device", lambda device: said.update(device=device))
    monkeypatch.setattr(context.ms, "set_context", said.update)
    runtime = {"ops_backend": "ascend", "jit_level": jit_level}
    set_context(config_from_dict({"model": {"dtype": "float16"}, "runtime": runtime}))
    assert said == {"device": "Ascend", "mode": ms.GRAPH_MODE, "jit_config": expected}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_fused_operators_where_there_are_none(dtype):
    config = config_from_dict({"model": {"dtype": dtype}, "runtime": {"fused_ops": True, "ops_backend": "cpu"}})
    with pytest.raises(ConfigError) as caught:
        set_context(config)
    assert str(caught.value) == (
        f"runtime.fused_ops is true, which with runtime.ops_backend cpu needs model.dtype float32; it is {dtype}"
    )


@pytest.mark.parametrize("weight_dtype", ["auto", "float32", "float16", "bfloat16", "w16a16", "int8", "stored"])
def test_forms_of_weights_that_the_cpu_reads(weight_dtype):
    set_context(config_from_dict({"model": {"dtype": "float32", "weight_dtype": weight_dtype}}))


@pytest.mark.usefixtures("all_are_built")
@pytest.mark.parametrize(
    ("dtype", "kv_cache_dtype", "allowed"),
    [
        ("float32", "auto", "float16, bfloat16 or int8"),
        ("float32", "float32", "float16, bfloat16 or int8"),
        ("float16", "bfloat16", "float16 or int8"),
        ("bfloat16", "float16", "bfloat16 or int8"),
        ("bfloat16", "float32", "bfloat16 or int8"),
    ],
)
@pytest.mark.parametrize(("ops_backend", "device"), [("ascend_emulator", "CPU"), ("ascend", "Ascend")])
def test_pages_that_the_ascend_kernels_do_not_take(ops_backend, device, dtype, kv_cache_dtype, allowed):
    with pytest.raises(ConfigError) as caught:
        set_context(config_of(ops_backend, device, dtype, kv_cache_dtype))
    shown = f"auto, which is {dtype}" if kv_cache_dtype == "auto" else kv_cache_dtype
    assert str(caught.value) == (
        f"cache.kv_cache_dtype is {shown}; with model.dtype {dtype} and runtime.ops_backend {ops_backend} "
        f"it must be {allowed}"
    )


@pytest.mark.usefixtures("all_are_built")
@pytest.mark.parametrize(
    ("dtype", "kv_cache_dtype"),
    [
        ("float32", "float16"),
        ("float32", "bfloat16"),
        ("float16", "auto"),
        ("bfloat16", "auto"),
        *((dtype, "int8") for dtype in ("float32", "float16", "bfloat16")),
    ],
)
def test_pages_that_they_take(dtype, kv_cache_dtype):
    set_context(config_of("ascend_emulator", "CPU", dtype, kv_cache_dtype))
    assert ms.get_context("device_target") == "CPU"


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_cpu_takes_all_pages(dtype):
    for kv_cache_dtype in ("auto", "float32", "float16", "bfloat16", "int8"):
        set_context(config_of("cpu", "CPU", dtype, kv_cache_dtype))


@pytest.mark.usefixtures("all_are_built")
def test_a_mindspore_without_ascend_is_told_in_one_line():
    with pytest.raises(ConfigError) as caught:
        set_context(config_of("ascend", "Ascend", kv_cache_dtype="float16"))
    assert str(caught.value) == (
        "runtime.device_target is Ascend, which MindSpore does not have here: Unsupported device target Ascend"
    )


@pytest.mark.parametrize("head_dim", [8, 24, 272])
def test_heads_that_the_ascend_kernels_do_not_take(head_dim):
    config = config_of("ascend_emulator", kv_cache_dtype="float16")
    with pytest.raises(ConfigError) as caught:
        pool_of(config, replace(TINY, head_dim=head_dim))
    assert str(caught.value) == (
        f"the model's head_dim is {head_dim}; with runtime.ops_backend ascend_emulator it must be a multiple of 16, "
        "at most 256"
    )
    if head_dim % 2 == 0:
        pool_of(config_of("cpu"), replace(TINY, head_dim=head_dim))


@pytest.mark.parametrize("head_dim", [16, 48, 160])
def test_heads_that_the_ascend_kernels_do_not_take_in_int8(head_dim):
    config = config_of("ascend_emulator", kv_cache_dtype="int8")
    with pytest.raises(ConfigError) as caught:
        pool_of(config, replace(TINY, head_dim=head_dim))
    assert str(caught.value) == (
        f"the model's head_dim is {head_dim}; with runtime.ops_backend ascend_emulator and cache.kv_cache_dtype int8 "
        "it must be a multiple of 32, at most 128"
    )
    pool_of(config_of("cpu", kv_cache_dtype="int8"), replace(TINY, head_dim=head_dim))


def test_pages_of_int8_have_room_for_their_scales_and_count_it():
    """Of the tiny model's 2 layers and 2 KV heads of 16 each, a token takes 2 * 2 * 2 * (16 + 4) bytes."""
    config = config_of("cpu", kv_cache_dtype="int8", memory_budget=10 * 16 * 160)
    assert make_plan(config, TINY).num_blocks == 10
    pool = pool_of(config, TINY, 10)
    assert pool.num_bytes == 10 * 16 * 160
    assert (pool.dtype, pool.num_blocks, pool.block_size, pool.key_caches[0].shape[-1]) == ("int8", 10, 16, 20)
    with pytest.raises(ConfigError, match="at least 2 need 5120 bytes"):
        make_plan(config_of("cpu", kv_cache_dtype="int8", memory_budget=5119), TINY)


@pytest.mark.parametrize(
    ("config", "parallel", "shapes"),
    [
        (config_of("cpu"), WHOLE, [(2, 10, 16, 2, 16)]),
        (config_of("cpu"), TensorParallel(1, 2), [(10, 16, 1, 16)] * 2),
        (config_of("cpu", dtype="float16"), WHOLE, [(10, 16, 2, 16)] * 2),
        (config_of("ascend_emulator", kv_cache_dtype="float16"), WHOLE, [(10, 16, 2, 16)] * 2),
    ],
    ids=["a step of one operator", "a rank of two", "plain layers", "another backend"],
)
def test_layers_have_their_pages_together_where_the_step_is_one_operator(config, parallel, shapes):
    pool = pool_of(config, TINY, 10, parallel)
    assert [cache.shape for cache in pool.key_caches] == [cache.shape for cache in pool.value_caches] == shapes
    assert (pool.num_blocks, pool.block_size) == (10, 16)


def test_more_heads_for_a_kv_head_than_the_ascend_kernels_take():
    many = replace(TINY, num_attention_heads=17, num_key_value_heads=1, head_dim=16)
    with pytest.raises(ConfigError) as refusal:
        pool_of(config_of("ascend_emulator"), many)
    assert str(refusal.value) == (
        "the model has 17 attention heads for each KV head; with runtime.ops_backend ascend_emulator it must be at "
        "most 16"
    )
    pool_of(config_of("cpu"), many)


def test_wider_tokens_than_the_ascend_kernels_stride_over():
    wide = replace(TINY, num_attention_heads=1024, num_key_value_heads=512, head_dim=64)
    with pytest.raises(ConfigError) as refusal:
        pool_of(config_of("ascend_emulator"), wide)
    assert str(refusal.value) == (
        "the model has 1024 attention heads of 64 numbers; with runtime.ops_backend ascend_emulator they must be at "
        "most 65535 numbers together: share the model among ranks"
    )
    pool_of(config_of("ascend_emulator"), wide, 10, TensorParallel(0, 2))


@pytest.mark.parametrize(("ops_backend", "size"), [("cpu", 256), ("ascend_emulator", 128)])
def test_automatic_blocks_fit_the_kernel_that_runs_and_not_the_device(ops_backend, size):
    config = config_of(ops_backend, kv_cache_dtype="float16", block_size="auto")
    model_config = replace(TINY, head_dim=128, max_position_embeddings=1024)
    assert make_plan(config, model_config).block_size == size


def test_ranks_have_no_adapters():
    config, room = config_from_dict({"cache": {"num_blocks": 9}}), AdapterRoom(2, 4)
    model = model_config_by_name("llama3-70b")
    assert make_plan(config, model, adapter_room=room).adapter_room == room
    with pytest.raises(ConfigError, match="model.max_loras is 2; under parallel.tensor_parallel_size 2 it must be 0"):
        make_plan(config, model, TensorParallel(0, 2), adapter_room=room)


def test_a_plan_has_nothing_open():
    """Of a rank of two of LLaMA 3 70B: 80 layers, 4 of 8 KV heads of 128 numbers of 2 bytes, keys and values."""
    scheduler = {"max_num_seqs": 4, "max_num_batched_tokens": 64, "num_speculative_tokens": 2}
    config = config_from_dict(
        {
            "model": {"dtype": "bfloat16"},
            "cache": {"block_size": "auto", "memory_budget": 9 * 128 * 80 * 4 * 128 * 2 * 2},
            "scheduler": scheduler,
            "runtime": {"ops_backend": "ascend"},
        }
    )
    plan = make_plan(config, model_config_by_name("llama3-70b"), TensorParallel(1, 2))
    assert (plan.backend.name, plan.kv_cache_dtype, plan.is_fused, plan.formats) == ("ascend", "bfloat16", True, None)
    assert (plan.block_size, plan.num_blocks, plan.max_model_len) == (128, 9, 8 * 128)
    assert (plan.share.num_key_value_heads, plan.share.num_attention_heads) == (4, 32)
    assert (plan.table_shape, plan.token_buckets) == ((4, 8), (1, 2, 4, 8, 12, 48, 64))
    assert [plan.num_logits(tokens) for tokens in (1, 8, 64)] == [1, 8, 12]
    assert plan.common_to_ranks() == make_plan(config, plan.model, TensorParallel(0, 2)).common_to_ranks()


@pytest.mark.parametrize(
    ("layer_types", "num_blocks", "chunked", "longest"),
    [
        ((), 8, True, 512),  # a window of 40 and chunks of 32 take up to 6 pages of 16
        ((), 7, True, 512),
        ((), 6, True, 80),
        ((), 8, False, 112),
        (("sliding_attention", "full_attention"), 8, True, 112),
    ],
)
def test_a_pool_that_holds_the_window_is_enough_where_all_layers_slide(layer_types, num_blocks, chunked, longest):
    model = replace(TINY, sliding_window=40, layer_types=layer_types, max_position_embeddings=512)
    scheduler = {"max_num_seqs": 4, "max_num_batched_tokens": 32 if chunked else 512, "enable_chunked_prefill": chunked}
    config = config_from_dict({"cache": {"num_blocks": num_blocks, "block_size": 16}, "scheduler": scheduler})
    plan = make_plan(config, model)
    assert plan.max_model_len == longest
    assert plan.most_blocks_per_seq == (6 if longest == 512 else longest // 16)


def test_a_graph_alone_is_for_the_models_longest_sequence_whatever_the_pool():
    config = config_of("cpu", num_blocks=2)
    assert make_plan(config, TINY).max_model_len == 16
    plan = make_plan(config, TINY, of_one_sequence=True)
    assert plan.max_model_len == TINY.max_position_embeddings
    assert (plan.num_blocks - 1) * plan.block_size >= plan.max_model_len
