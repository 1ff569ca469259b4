"""From a configuration to an engine: find the model, load its weights, allocate the pool, compile the graphs."""

import resource
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial
from threading import Thread

from tqdm import tqdm

from mindspore_paged.cache.block_pool import NULL_BLOCK, BlockPool
from mindspore_paged.cache.block_table import BlockTable
from mindspore_paged.cache.cache_manager import CacheManager
from mindspore_paged.cache.compaction import CompactionTrigger
from mindspore_paged.cache.elasticity import ElasticCapacity
from mindspore_paged.cache.event_log import PoolEventLog
from mindspore_paged.cache.file_tier import FileTier
from mindspore_paged.cache.host_tier import HostTier
from mindspore_paged.cache.page_format import PageFormat
from mindspore_paged.config import EngineConfig, SchedulerSection
from mindspore_paged.engine.building.adapters import adapter_room, load_adapters, read_adapters
from mindspore_paged.engine.building.context import set_context
from mindspore_paged.engine.building.draft import (
    draft_model_of,
    loaded_draft,
    open_draft,
    plan_draft,
    runner_with_draft,
)
from mindspore_paged.engine.building.fingerprint import model_fingerprint
from mindspore_paged.engine.building.loading import load_weights
from mindspore_paged.engine.building.model import build_kv_pool, build_model, load_exported
from mindspore_paged.engine.building.opening import open_weights, part_of, resolve_model_config
from mindspore_paged.engine.building.plan import Plan, make_plan
from mindspore_paged.engine.engine import LLMEngine
from mindspore_paged.engine.execution.garbage import heap_put_aside
from mindspore_paged.engine.execution.large_pages import move_heap_to_large_pages
from mindspore_paged.engine.execution.model_runner import ModelRunner
from mindspore_paged.engine.execution.page_mover import PageMover
from mindspore_paged.engine.execution.ranks.channel import FollowerChannel, LeaderChannel, open_channel
from mindspore_paged.engine.execution.ranks.collectives import join_group
from mindspore_paged.engine.execution.ranks.follower import follow
from mindspore_paged.engine.execution.ranks.leader_runner import LeaderRunner
from mindspore_paged.engine.execution.ranks.place import Place, errors_end_the_job, place_of
from mindspore_paged.engine.execution.runner import Runner
from mindspore_paged.engine.execution.runner_with_draft import RunnerWithDraft
from mindspore_paged.engine.metrics import Metrics
from mindspore_paged.engine.prefix_store import pin_prefix
from mindspore_paged.engine.requests.lora_adapters import LoraAdapters
from mindspore_paged.engine.requests.request_check import ModelLimits
from mindspore_paged.engine.requests.response_cache import ResponseCache
from mindspore_paged.engine.requests.sequence import Request
from mindspore_paged.engine.scheduling.draft_length import DraftLength
from mindspore_paged.engine.scheduling.length_predictor import LengthPredictor, class_of, output_limit
from mindspore_paged.engine.scheduling.ngram_proposer import NgramProposer
from mindspore_paged.engine.scheduling.policies import policy_by_name
from mindspore_paged.engine.scheduling.prefill_window import PrefillWindow
from mindspore_paged.engine.scheduling.scheduler import Scheduler
from mindspore_paged.engine.scheduling.speculation import Speculation
from mindspore_paged.engine.scheduling.swap_cost import SwapCost
from mindspore_paged.errors import ConfigError, RequestError
from mindspore_paged.key_file import read_key
from mindspore_paged.launch import states, supervision
from mindspore_paged.launch.mindspore_import import collector_paused
from mindspore_paged.launch.worker import current_worker
from mindspore_paged.model_config import ModelConfig
from mindspore_paged.tokenizer import Tokenizer, load_tokenizer
from mindspore_paged.weights.exported_checkpoint import ExportedCheckpoint


def build_engine(config: EngineConfig, show_progress: bool = True) -> LLMEngine:
    """An engine that is ready to run: every graph is compiled.

    Under `msrun` every worker calls this. It returns on the leader of each group of ranks that share a model; the
    others do what the leader says, and end their processes by SystemExit(0) when it closes the engine.
    What can be refused before weights are read is refused then. Raises ConfigError and CheckpointError.
    """
    with errors_end_the_job():
        worker = current_worker()
        place = place_of(worker, config.parallel.resolved_tensor_parallel_size(worker.size))
        return _build(config, place, show_progress)


def _build(config: EngineConfig, place: Place, show_progress: bool) -> LLMEngine:
    show_progress = show_progress and place.is_leader
    progress = partial(tqdm, disable=not show_progress, leave=False)
    page_key = read_key(config.cache.page_key, "cache.page_key") if config.cache.page_key else None
    with collector_paused():  # what is made here stays
        set_context(config)
        checkpoint = open_weights(config, place.parallel)
        model_config = resolve_model_config(config, checkpoint)
        adapters = read_adapters(config, model_config)
        draft = open_draft(config, checkpoint, place.parallel)
        plan = make_plan(
            config,
            model_config,
            place.parallel,
            checkpoint,
            draft=draft and draft.model,
            report=show_progress,
            adapter_room=adapter_room(config, adapters),
        )
        tokenizer = load_tokenizer(config.model.tokenizer or checkpoint.tokenizer_source)
        plan_of_draft = plan_draft(draft, plan, tokenizer) if draft else None
        capacity = _capacity(config, plan)
        join_group(place)
        channel = open_channel(place, plan.common_to_ranks())
        own = part_of(checkpoint, place.parallel, model_config)
        if isinstance(checkpoint, ExportedCheckpoint):
            model, kv_pool = load_exported(checkpoint.folder, plan)
        else:
            kv_pool = build_kv_pool(plan)
            model = build_model(plan, kv_pool, place)
        supervision.report_state(0, states.LOADING)
        hidden_states = model.hidden_states() if plan.embeddings else None
        with ExitStack() as loading:
            loading.enter_context(load_weights(model, own, progress))
            runner = ModelRunner(model, kv_pool, plan.token_buckets, plan.logits_per_seq, hidden_states)
            runners = [runner]
            if draft:
                runners.append(loading.enter_context(loaded_draft(draft, plan_of_draft, kv_pool, progress)))
                runner = runner_with_draft(*runners, plan)
            supervision.report_state(0, states.COMPILING)
            with heap_put_aside():
                for each in runners:
                    each.warm_up(partial(progress, desc="Compiling graphs", unit="graph"))
            supervision.report_state(0, states.LOADING)
    runner = _runner_of_all_ranks(runner, place, channel, model_config)

    fingerprint = model_fingerprint(plan, model)
    (page,) = runner.read_pages([NULL_BLOCK])
    page_format = PageFormat.of(page, fingerprint, page_key)
    host_tier = _host_tier(config, page_format)
    cache = CacheManager(
        BlockPool(plan.num_blocks),
        BlockTable(*plan.table_shape),
        plan.block_size,
        config.cache.enable_prefix_caching,
        host_tier,
        capacity,
        model_config.cache_window,
    )
    scheduler = build_scheduler(config, cache, plan.max_model_len)
    draft_model = None
    if draft:
        draft_length = scheduler.speculation.draft_length
        draft_model = draft_model_of(runner, cache, plan, plan_of_draft, draft_length)
    trigger = CompactionTrigger() if config.cache.compaction else None
    engine = LLMEngine(
        scheduler,
        runner,
        tokenizer,
        ModelLimits(
            model_config.vocab_size,
            plan.max_model_len,
            _ends(model_config, tokenizer),
            model_config.hidden_size if plan.embeddings else None,
            config.scheduler.enable_chunked_prefill,
            config.scheduler.max_num_seqs,
        ),
        mover=PageMover(scheduler, runner, host_tier, trigger, SwapCost(config.cache.swap)),
        draft_model=draft_model,
        response_cache=_response_cache(config),
        event_log=_event_log(config, plan),
        model_fingerprint=fingerprint,
        page_key=page_key,
        lora=LoraAdapters(model.adapters, model_config),
        debug=config.runtime.debug,
    )
    load_adapters(engine, adapters)
    _preload(engine, progress(config.cache.preload_prefixes, desc="Preloading prefixes", unit="prefix"))
    engine.metrics = Metrics()  # figures are of the users' requests
    return engine


def _ends(model_config: ModelConfig, tokenizer: Tokenizer | None) -> tuple[int, ...]:
    """All that the model's configuration or its tokenizer says ends a sequence."""
    return tuple(dict.fromkeys((*model_config.eos_token_ids, *(tokenizer.eos_token_ids if tokenizer else ()))))


def _runner_of_all_ranks(
    runner: ModelRunner | RunnerWithDraft,
    place: Place,
    channel: LeaderChannel | FollowerChannel | None,
    model_config: ModelConfig,
) -> Runner:
    """The compiled runner, on the leader together with the others'; a follower stays here until the leader is done."""
    # All that a step needs is there now. Nobody waits for it to be moved: it may be used meanwhile.
    Thread(target=move_heap_to_large_pages, name="large pages", daemon=True).start()
    if place.worker.supervised:
        tqdm.write(_memory_line(place, runner), file=sys.stderr)  # msrun puts it into the log of this rank
    if isinstance(channel, FollowerChannel):
        follow(runner, channel)
        supervision.leave()
        raise SystemExit(0)
    supervision.report_state(0, states.IDLE)
    return LeaderRunner(runner, channel, place.kv_heads_of_ranks(model_config)) if channel else runner


def _memory_line(place: Place, runner: Runner) -> str:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return (
        f"rank {place.worker.rank} of {place.worker.size}: weights {runner.weight_bytes / 1e9:.2f} GB, "
        f"pages {runner.kv_cache_bytes / 1e9:.2f} GB, peak memory {peak / 1e9:.2f} GB"
    )


def build_scheduler(config: EngineConfig, cache: CacheManager, max_model_len: int) -> Scheduler:
    """The scheduler with the policies that the configuration names."""
    options = config.scheduler
    predictor = LengthPredictor()  # it learns in any case: shortest first asks it too

    def expected_output(request: Request) -> int:
        return predictor.predict(class_of(request), 0, output_limit(request, max_model_len))

    window = None
    if options.long_prefill_share is not None:
        window = PrefillWindow(
            options.max_num_batched_tokens,
            cache.block_size,
            options.long_prompt_tokens or options.max_num_batched_tokens,
            options.long_prefill_share,
        )
    return Scheduler(
        cache,
        options.max_num_batched_tokens,
        options.enable_chunked_prefill,
        max_model_len=max_model_len,
        policy=policy_by_name(options.policy, expected_output, options.ageing_steps),
        predictor=predictor,
        reserve_predicted=options.predict_lengths,
        prefill_window=window,
        contiguous_priority=config.cache.contiguous_priority,
        reserve_max_model_len=options.reserve_max_model_len,
        speculation=_speculation(options),
        max_num_logits=options.max_num_seqs * options.logits_per_seq,
    )


def _speculation(options: SchedulerSection) -> Speculation | None:
    if options.num_speculative_tokens == 0:
        return None
    proposer = None
    if options.speculative_model is None:
        proposer = NgramProposer(options.prompt_lookup_min, options.prompt_lookup_max)
    draft_length = DraftLength(options.num_speculative_tokens) if options.adapts_speculation else None
    return Speculation(proposer, options.num_speculative_tokens, draft_length)


def _host_tier(config: EngineConfig, page_format: PageFormat) -> HostTier | None:
    if config.cache.host_memory is None:
        return None
    below = None
    if config.cache.page_files is not None:
        below = FileTier(config.cache.page_files, config.cache.page_files_budget, page_format)
    return HostTier(config.cache.host_memory, below)


def _response_cache(config: EngineConfig) -> ResponseCache | None:
    entries = config.cache.response_cache_entries
    return ResponseCache(entries) if entries else None


def _event_log(config: EngineConfig, plan: Plan) -> PoolEventLog | None:
    path = config.runtime.event_log
    return PoolEventLog(path, plan.num_blocks, plan.block_size) if path else None


def _capacity(config: EngineConfig, plan: Plan) -> ElasticCapacity | None:
    smallest = config.cache.elastic_min_blocks
    if smallest is None:
        return None
    if not plan.most_blocks_per_seq <= smallest < plan.num_blocks:
        raise ConfigError(
            f"cache.elastic_min_blocks is {smallest}; it must be from {plan.most_blocks_per_seq}, the longest "
            f"sequence, to {plan.num_blocks - 1}, the pool"
        )
    return ElasticCapacity(smallest, plan.num_blocks - 1)


def _preload(engine: LLMEngine, prefixes: Iterable[str]) -> None:
    for place, prefix in enumerate(prefixes):
        try:
            pin_prefix(engine, prefix)
        except RequestError as error:
            engine.close()
            raise ConfigError(f"cache.preload_prefixes[{place}]: {error}") from None
