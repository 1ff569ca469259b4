"""All that a configuration and a checkpoint leave open, decided once: what runs later knows the Plan."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from tqdm import tqdm

from mindspore_paged.cache.block_size import choose_block_size
from mindspore_paged.cache.pool_size import most_blocks, num_blocks_for_budget, page_bytes_per_token
from mindspore_paged.config import EngineConfig
from mindspore_paged.custom_ops.backends import BACKENDS, Backend
from mindspore_paged.engine.building.fusing import is_fused_here
from mindspore_paged.engine.building.opening import part_of
from mindspore_paged.errors import ConfigError
from mindspore_paged.formats.weight_format import WeightFormat
from mindspore_paged.model_config import ModelConfig
from mindspore_paged.tensor_parallel import WHOLE, TensorParallel
from mindspore_paged.weights.lora_adapter import AdapterRoom
from mindspore_paged.weights.packing import formats_of
from mindspore_paged.weights.tensor_source import Checkpoint


@dataclass(frozen=True)
class Plan:
    """What is built: a model, this rank's part of it, its pages and its graphs.

    model: the whole of it; parallel: which part is this rank's.
    dtype: of activations; kv_cache_dtype: of pages; weight_dtype: as the configuration says it, of which `formats` is
    made: how the weight of a name is held where whole layers are operators of the backend; None: in `dtype`.
    is_fused: layers are operators of the backend, or what stands between their products is.
    num_blocks: pages of the pool, the null block included; block_size: tokens of each; max_num_seqs: rows of
    block_table. most_blocks_per_seq: pages that the longest sequence holds at once. token_buckets: ascending token
    counts, a graph each; embeddings: each has another one that gives hidden states. adapter_room: for adapters of low
    rank beside the model; None: there are none.
    """

    model: ModelConfig
    parallel: TensorParallel
    backend: Backend
    dtype: str
    weight_dtype: str
    kv_cache_dtype: str
    is_fused: bool
    jit_level: str
    block_size: int
    num_blocks: int
    max_model_len: int
    max_num_seqs: int
    most_blocks_per_seq: int
    num_speculative_tokens: int
    token_buckets: tuple[int, ...]
    embeddings: bool
    adapter_room: AdapterRoom | None
    formats: Callable[[str], WeightFormat] | None = field(compare=False, repr=False)

    @property
    def share(self) -> ModelConfig:
        """The model as this rank computes it."""
        return self.parallel.share(self.model)

    @property
    def max_blocks_per_seq(self) -> int:
        """Pages that the longest sequence fills."""
        return -(-self.max_model_len // self.block_size)

    @property
    def table_shape(self) -> tuple[int, int]:
        """Rows and columns of block_table."""
        return self.max_num_seqs, self.max_blocks_per_seq

    @property
    def is_one_operator(self) -> bool:
        """Whether a step is one operator; then pages of all layers are together."""
        return self.is_fused and self.backend.whole_layers and self.parallel.size == 1

    @property
    def logits_per_seq(self) -> int:
        """Tokens of a sequence whose logits a step may want: one, and the drafts behind it."""
        return 1 + self.num_speculative_tokens

    def num_logits(self, num_tokens: int) -> int:
        """Rows of logits that the graph of `num_tokens` tokens gives."""
        return min(num_tokens, self.max_num_seqs * self.logits_per_seq)

    def fixed_in_the_graph(self) -> dict[str, int | str]:
        """What, beside the model, an exported graph cannot change any more, by the configuration's keys."""
        return {
            "model.dtype": self.dtype,
            "model.weight_dtype": self.weight_dtype,
            "runtime.fused_ops": self.is_fused,
            "cache.kv_cache_dtype": self.kv_cache_dtype,
            "cache.block_size": self.block_size,
            "scheduler.max_model_len": self.max_model_len,
            "runtime.ops_backend": self.backend.name,
        }

    def common_to_ranks(self) -> dict[str, object]:
        """What all ranks of a group must agree on to run the same graphs, by the configuration's keys."""
        return {
            "model": repr(self.model),
            "model.dtype": self.dtype,
            "cache.kv_cache_dtype": self.kv_cache_dtype,
            "cache.block_size": self.block_size,
            "cache.num_blocks": self.num_blocks,
            "scheduler.max_model_len": self.max_model_len,
            "scheduler.max_num_seqs": self.max_num_seqs,
            "scheduler.num_speculative_tokens": self.num_speculative_tokens,
            "scheduler.token_buckets": self.token_buckets,
            "runtime.jit_level": self.jit_level,
            "runtime.embeddings": self.embeddings,
        }


def make_plan(
    config: EngineConfig,
    model: ModelConfig,
    parallel: TensorParallel = WHOLE,
    checkpoint: Checkpoint | None = None,
    *,
    draft: ModelConfig | None = None,
    of_one_sequence: bool = False,
    report: bool = False,
    adapter_room: AdapterRoom | None = None,
) -> Plan:
    """Decide everything that `config` leaves open for a rank's part of `model`.

    checkpoint: needed where model.weight_dtype is `stored`. draft: a model whose pages take their part of the pool's
    bytes. of_one_sequence: the pool holds the longest sequence of the
    model, whatever the configuration says of it: for graphs that are compiled and never run. report: print why
    `block_size: auto` and `fused_ops: auto` become what they do. adapter_room: see Plan.
    Raises ConfigError where model, configuration and backend do not go together.
    """
    backend, scheduler = BACKENDS[config.runtime.ops_backend], config.scheduler
    share, positions = parallel.share(model), model.max_position_embeddings
    block_size = _block_size(config, model, backend, report)
    num_blocks = 1 + -(-positions // block_size) if of_one_sequence else _num_blocks(config, share, block_size, draft)
    window, chunk_tokens = model.cache_window, scheduler.chunk_tokens
    needed = most_blocks(positions, block_size, window, chunk_tokens)
    pool_tokens = positions if window and needed < num_blocks else (num_blocks - 1) * block_size
    max_model_len = scheduler.resolved_max_model_len(positions, pool_tokens)
    check_heads(backend, config.kv_cache_dtype, share)
    if adapter_room is not None and parallel.size > 1:
        raise ConfigError(
            f"model.max_loras is {adapter_room.number}; under parallel.tensor_parallel_size {parallel.size} it must "
            "be 0: ranks that share a model have no adapters"
        )
    weight_dtype, dtype = config.model.weight_dtype, config.model.dtype
    is_fused = is_fused_here(config, share, adapter_room, report)
    own = None if checkpoint is None else part_of(checkpoint, parallel, model)
    return Plan(
        model=model,
        parallel=parallel,
        backend=backend,
        dtype=dtype,
        weight_dtype=weight_dtype,
        kv_cache_dtype=config.kv_cache_dtype,
        is_fused=is_fused,
        jit_level=config.runtime.jit_level,
        block_size=block_size,
        num_blocks=num_blocks,
        max_model_len=max_model_len,
        max_num_seqs=scheduler.max_num_seqs,
        most_blocks_per_seq=most_blocks(max_model_len, block_size, window, chunk_tokens),
        num_speculative_tokens=scheduler.num_speculative_tokens,
        token_buckets=scheduler.resolved_token_buckets(),
        embeddings=config.runtime.embeddings,
        adapter_room=adapter_room,
        formats=formats_of(own, weight_dtype, dtype) if is_fused and backend.whole_layers else None,
    )


def _num_blocks(config: EngineConfig, share: ModelConfig, block_size: int, draft: ModelConfig | None) -> int:
    if config.cache.num_blocks is not None:
        return config.cache.num_blocks
    models = [share] if draft is None else [share, draft]
    bytes_per_token = sum(page_bytes_per_token(model, config.kv_cache_dtype) for model in models)
    return num_blocks_for_budget(config.cache.pool_bytes, bytes_per_token, block_size)


def _block_size(config: EngineConfig, model: ModelConfig, backend: Backend, report: bool) -> int:
    if config.cache.block_size != "auto":
        return config.cache.block_size
    expected_len = config.scheduler.max_model_len or model.max_position_embeddings
    size, reason = choose_block_size(expected_len, backend.tokens_in_a_copy)
    if report:
        tqdm.write(f"block_size: {size} ({reason})", file=sys.stderr)
    return size


def check_heads(backend: Backend, kv_cache_dtype: str, share: ModelConfig) -> None:
    """Raise ConfigError if the backend's kernels do not take a model's heads, over pages of this type."""
    rule, head_dim, group = backend.heads, share.head_dim, share.num_attention_heads // share.num_key_value_heads
    if rule is None:
        return
    is_int8 = kv_cache_dtype == "int8"
    step, most = (rule.int8_step, rule.int8_most) if is_int8 else (rule.step, rule.most)
    pages = " and cache.kv_cache_dtype int8" if is_int8 else ""
    named = f"with runtime.ops_backend {backend.name}"
    if head_dim % step or head_dim > most:
        raise ConfigError(
            f"the model's head_dim is {head_dim}; {named}{pages} it must be a multiple of {step}, at most {most}"
        )
    if group > rule.most_group:
        raise ConfigError(
            f"the model has {group} attention heads for each KV head; {named} it must be at most {rule.most_group}"
        )
    width = share.num_attention_heads * head_dim
    if width > rule.most_width:
        raise ConfigError(
            f"the model has {share.num_attention_heads} attention heads of {head_dim} numbers; {named} they must be at "
            f"most {rule.most_width} numbers together: share the model among ranks"
        )
