"""The sections of the engine's configuration, each a frozen dataclass that checks itself."""

from collections.abc import Mapping
from dataclasses import MISSING, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

from pydantic import (
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    PlainValidator,
    StrictBool,
    StrictInt,
    create_model,
    field_validator,
)
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from mindspore_paged.config.scheduler_section import SchedulerSection
from mindspore_paged.config.server_section import ServerSection
from mindspore_paged.config.values import DEMO_WEIGHTS, RANDOM_WEIGHTS, SECTION, WeightDtype, byte_size, path
from mindspore_paged.custom_ops.backends import BACKENDS
from mindspore_paged.errors import ConfigError, RequestError
from mindspore_paged.model_config import ModelConfig, RopeScaling
from mindspore_paged.models.registry import MODEL_CONFIGS, model_config_by_name
from mindspore_paged.sampling.sampling_params import SamplingParams

DEFAULT_MEMORY_BUDGET = 256 * 2**20

# Types of the errors that come from here, beside pydantic's own.
SENTENCE = "sentence"
UNKNOWN_SAMPLING_KEY = "unknown_sampling_key"

_CLOSED = ConfigDict(extra="forbid", strict=True)


def _weights(value: Any) -> Any:
    return value if value in (DEMO_WEIGHTS, RANDOM_WEIGHTS) else path(value)


def _block_size(value: Any) -> int | str:
    if value != "auto" and (type(value) is not int or value < 16 or value % 16):
        raise ValueError("a multiple of 16, or auto")
    return value


def _sentence(text: str) -> PydanticCustomError:
    """An error whose text names its key already."""
    return PydanticCustomError(SENTENCE, "{text}", {"text": text})


def _keys_of(name: str, described: type, **others: Any) -> Any:
    """A model of the fields of a dataclass, each of which may be left out; lists of YAML are tuples."""
    keys = {
        key.name: Annotated[key.type, Field(strict=False)] if _is_tuple(key.type) else key.type
        for key in fields(described)
    }
    return create_model(name, __config__=_CLOSED, **{key: (kind, None) for key, kind in (keys | others).items()})


def _is_tuple(kind: Any) -> bool:
    return get_origin(kind) is tuple


_RopeScalingKeys = _keys_of("RopeScalingKeys", RopeScaling)
_ModelConfigKeys = _keys_of("ModelConfigKeys", ModelConfig, rope_scaling=_RopeScalingKeys)


@dataclass(frozen=True, config=SECTION)
class ModelSection:
    """Which model runs: a known name, dimensions of its own, or what the weights say of themselves.

    name: a key of `MODEL_CONFIGS`. config: fields of `ModelConfig`, which override those of `name` or stand alone.
    weights: a file or folder, `demo` for the demo model, or `random` for weights drawn from `seed`.
    tokenizer: a file or folder; None takes the one that comes with the weights. chat_template_kwargs: what the template
    of every chat is told, unless a request says otherwise. verify_key: the file of a key that must have signed an
    exported model before any of it is loaded. dtype: of weights and activations. weight_dtype: of
    the matrices alone, where operators are fused (runtime.fused_ops): `auto` keeps blocks of few bits as the checkpoint
    has them, and makes floats of dtype of its floats; int8 and int4 have a scale for each 32 neighbours; w16a16 is
    bfloat16 whose products may round activations to bfloat16, where that is faster; `stored` keeps floats as they are,
    too. lora_adapters: PEFT folders by the names that requests ask for them. max_loras: how many adapters there is room
    for, loaded while serving included (default: those that are named); max_lora_rank: of each, at most (default: the
    largest of those that are named, or 16).
    """

    name: Literal[tuple(MODEL_CONFIGS)] | None = None
    config: _ModelConfigKeys | None = None
    weights: Annotated[str | Path, BeforeValidator(_weights)] | None = None
    tokenizer: Annotated[Path, BeforeValidator(path)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    verify_key: Annotated[Path, BeforeValidator(path)] | None = None
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    weight_dtype: WeightDtype = "auto"
    seed: StrictInt = Field(0, ge=0)
    lora_adapters: dict[str, Annotated[Path, BeforeValidator(path)]] = Field(default_factory=dict)
    max_loras: StrictInt | None = Field(None, ge=0, le=64)
    max_lora_rank: StrictInt | None = Field(None, ge=1, le=512)

    @field_validator("weights")
    @classmethod
    def _random_weights_need_a_shape(cls, weights, info):
        name, config = info.data.get("name"), info.data.get("config")
        if weights == RANDOM_WEIGHTS and name is None and (config is None or _missing(config)):
            lacking = f" (it lacks {', '.join(_missing(config))})" if config else ""
            raise ValueError(f"a file or folder, unless model.name or model.config{lacking} gives the shape")
        return weights

    @field_validator("config")
    @classmethod
    def _config_is_sound(cls, config, info):
        complete = config is not None and not _missing(config)
        if complete or (config is not None and info.data.get("name") is not None):
            try:
                _dimensions(info.data.get("name"), None, config)
            except ConfigError as error:
                raise _sentence(str(error)) from None
        return config

    def dimensions(self, described: ModelConfig | None = None) -> ModelConfig | None:
        """The shape that the weights say (`described`), else that of `name`, with the fields of `config` on top.

        None where nothing tells the whole shape; raises ConfigError where the fields contradict each other.
        """
        if self.name is None and described is None and (self.config is None or _missing(self.config)):
            return None
        return _dimensions(self.name, described, self.config)

    def overrides(self, key: str) -> bool:
        """Whether `config` itself gives this field of ModelConfig."""
        return self.config is not None and key in self.config.model_fields_set


def _missing(config: Any) -> list[str]:
    """Fields of ModelConfig that have no default and that `config` does not give."""
    needed = (key.name for key in fields(ModelConfig) if key.default is key.default_factory is MISSING)
    return [key for key in needed if key not in config.model_fields_set]


def _dimensions(name: str | None, described: ModelConfig | None, config: Any) -> ModelConfig:
    given = config.model_dump(exclude_unset=True) if config else {}
    base = described or (model_config_by_name(name) if name is not None else None)
    if "rope_scaling" in given:
        given["rope_scaling"] = replace(base.rope_scaling if base else RopeScaling(), **given["rope_scaling"])
    return ModelConfig(**given) if base is None else replace(base, **given)


@dataclass(frozen=True, config=SECTION)
class CacheSection:
    """The pool of KV pages: its size by `num_blocks` or by `memory_budget` (bytes), not both; and what lies below it.

    block_size: tokens in a page, a multiple of 16, or `auto`. kv_cache_dtype: `auto` is the model's dtype; int8 has a
    float32 scale for each head of a token.
    host_memory: bytes for pages that the pool evicts; page_files: a folder for those that host memory evicts, of at
    most page_files_budget bytes. page_key: a file of at least 32 secret bytes that seals page files and exported
    prefixes, and without whose seal none is read. swap: whether evicted pages are saved there, `auto` by measured cost.
    contiguous_priority: requests of this priority and above get their pages as one run where there is one.
    compaction: move pages together when the free ones are scattered, a run is missed, or steps have become slower.
    elastic_min_blocks: use as few blocks as this while the load is low; None always uses all.
    preload_prefixes: texts whose pages are computed at start and kept. response_cache_entries: answers kept for
    identical deterministic requests.
    """

    block_size: Annotated[int | str, BeforeValidator(_block_size)] = 16
    num_blocks: Annotated[StrictInt, Field(ge=2)] | None = None
    memory_budget: Annotated[ByteSize, PlainValidator(byte_size), Field(gt=0)] | None = None
    kv_cache_dtype: Literal["auto", "float32", "float16", "bfloat16", "int8"] = "auto"
    enable_prefix_caching: StrictBool = True
    host_memory: Annotated[ByteSize, PlainValidator(byte_size), Field(gt=0)] | None = None
    page_files: Annotated[Path, BeforeValidator(path)] | None = None
    page_key: Annotated[Path, BeforeValidator(path)] | None = None
    page_files_budget: Annotated[ByteSize, PlainValidator(byte_size), Field(gt=0)] = ByteSize(4 * 2**30)
    swap: Literal["auto", "always", "never"] = "auto"
    contiguous_priority: StrictInt | None = None
    compaction: StrictBool = False
    elastic_min_blocks: Annotated[StrictInt, Field(ge=1)] | None = None
    preload_prefixes: tuple[str, ...] = ()
    response_cache_entries: StrictInt = Field(0, ge=0)

    @field_validator("memory_budget")
    @classmethod
    def _one_size_only(cls, memory_budget, info):
        if memory_budget is not None and info.data.get("num_blocks") is not None:
            raise ValueError("left out where cache.num_blocks is given: they size the same pool")
        return memory_budget

    @field_validator("host_memory", "preload_prefixes")
    @classmethod
    def _names_are_needed(cls, value, info):
        if value and not info.data.get("enable_prefix_caching", True):
            raise ValueError("left out where cache.enable_prefix_caching is false: pages are found by their prefix")
        return value

    @field_validator("page_files")
    @classmethod
    def _files_lie_below_host_memory(cls, page_files, info):
        if page_files is not None and info.data.get("host_memory") is None:
            raise ValueError("left out where cache.host_memory is not given: pages reach the files through it")
        return page_files

    @property
    def pool_bytes(self) -> int | None:
        """Bytes that the pages may take; None where `num_blocks` sizes the pool."""
        return None if self.num_blocks is not None else (self.memory_budget or DEFAULT_MEMORY_BUDGET)


@dataclass(frozen=True, config=SECTION)
class RuntimeSection:
    """Where and how the graphs run.

    ops_backend: which build of the custom operators (custom_ops.backends); device_target follows from it: `ascend` runs
    on Ascend, `cpu` and `ascend_emulator` (the NPU's kernels on the CPU, slowly, to check them) on CPU. fused_ops: all
    decoder layers as one operator, or two a layer if ranks share them, on the backend cpu with model.dtype float32; on
    Ascend and its emulator nine launches a layer, where widths are multiples of 16 and there are no adapters; `auto`:
    wherever that is so. event_log: a file that receives each step's use of the pool, for scripts/show_cache.py.
    embeddings: compile a second graph for each number of tokens, which gives the hidden states that `LLM.embed` pools.
    local_kernels: run an exported model with the kernels that are installed here, not with those it brings. debug:
    check every bookkeeping invariant whenever the engine is idle.
    """

    ops_backend: Literal[tuple(BACKENDS)] = "cpu"
    device_target: Literal["CPU", "Ascend"] | None = None
    jit_level: Literal["O0", "O1"] = "O0"
    fused_ops: StrictBool | Literal["auto"] = "auto"
    event_log: Annotated[Path, BeforeValidator(path)] | None = None
    embeddings: StrictBool = False
    local_kernels: StrictBool = False
    debug: StrictBool = False

    @field_validator("device_target")
    @classmethod
    def _device_of_the_backend(cls, device_target, info):
        backend = BACKENDS.get(info.data.get("ops_backend"))  # none where ops_backend is refused
        return backend.device if device_target is None and backend else device_target


def _size_or_auto(value: Any) -> int | str:
    if value != "auto" and (type(value) is not int or value < 1):
        raise ValueError("a number of ranks, at least 1, or auto")
    return value


@dataclass(frozen=True, config=SECTION)
class ParallelSection:
    """How many processes share a model, and how many such groups answer requests side by side.

    tensor_parallel_size: ranks that share one model; `auto`: as many as msrun started, over data_parallel_size.
    data_parallel_size: engines of such ranks; requests go to the one with the least to do, or with the longest prefix.
    """

    tensor_parallel_size: Annotated[int | str, PlainValidator(_size_or_auto)] = "auto"
    data_parallel_size: Annotated[StrictInt, Field(ge=1)] = 1

    def resolved_tensor_parallel_size(self, num_workers: int) -> int:
        """The ranks of one model, for the workers that run; raises ConfigError if it does not come out even."""
        replicas, size = self.data_parallel_size, self.tensor_parallel_size
        if size == "auto":
            if num_workers % replicas:
                raise ConfigError(
                    f"parallel.data_parallel_size is {replicas}; it must divide the {_workers(num_workers)} that run"
                )
            return num_workers // replicas
        if size * replicas != num_workers:
            also = f" times parallel.data_parallel_size {replicas}" if replicas > 1 else ""
            raise ConfigError(
                f"parallel.tensor_parallel_size {size}{also} makes {_workers(size * replicas)}, but "
                f"{_workers(num_workers)} run; start them with scripts/msrun_launcher.sh, or change the configuration"
            )
        return size


def _workers(count: int) -> str:
    return f"{count} worker" if count == 1 else f"{count} workers"


def _sampling(value: Any) -> SamplingParams:
    if isinstance(value, SamplingParams):
        return value
    if not isinstance(value, Mapping):
        raise ValueError("a mapping of keys")
    known = [key.name for key in fields(SamplingParams)]
    for key in value:
        if key not in known:
            raise PydanticCustomError(UNKNOWN_SAMPLING_KEY, "{key}", {"key": key})
    try:
        return SamplingParams(**value)
    except RequestError as error:
        raise _sentence(f"sampling.{error}") from None


@dataclass(frozen=True, config=SECTION)
class EngineConfig:
    """Everything that an engine is built from; `sampling` holds the defaults of requests that leave a key out."""

    model: ModelSection = field(default_factory=ModelSection)
    cache: CacheSection = field(default_factory=CacheSection)
    scheduler: SchedulerSection = field(default_factory=SchedulerSection)
    runtime: RuntimeSection = field(default_factory=RuntimeSection)
    parallel: ParallelSection = field(default_factory=ParallelSection)
    server: ServerSection = field(default_factory=ServerSection)
    sampling: Annotated[SamplingParams, PlainValidator(_sampling)] = field(default_factory=SamplingParams)

    @property
    def kv_cache_dtype(self) -> str:
        """Type of the pages' elements: the model's, unless `cache.kv_cache_dtype` says otherwise."""
        return self.model.dtype if self.cache.kv_cache_dtype == "auto" else self.cache.kv_cache_dtype

    @property
    def fused_ops(self) -> bool:
        """Whether layers are made of fused operators."""
        wanted = self.runtime.fused_ops
        return self.model.dtype in BACKENDS[self.runtime.ops_backend].fused_dtypes if wanted == "auto" else wanted
