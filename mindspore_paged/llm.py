"""LLM: the one class that most users touch."""

import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tqdm import tqdm

from mindspore_paged.config import EngineConfig, load_config
from mindspore_paged.engine.building.builder import build_engine
from mindspore_paged.engine.execution.ranks.place import errors_end_the_job
from mindspore_paged.engine.loop import Engine, EngineLoop
from mindspore_paged.engine.replicas.adapters import load_lora_adapter, unload_lora_adapter
from mindspore_paged.engine.replicas.joining import files_of_replica, serve_or_route
from mindspore_paged.engine.replicas.prefixes import export_prefix, import_prefix, pin_prefix
from mindspore_paged.engine.requests.outputs import RequestOutput, SequenceUpdate, request_output
from mindspore_paged.engine.requests.prompt_forms import Prompt, is_one_prompt, text_or_token_ids
from mindspore_paged.engine.requests.sequence import Request
from mindspore_paged.errors import ConfigError, EngineStoppedError, RequestError, StepError
from mindspore_paged.launch.worker import current_worker
from mindspore_paged.mindir.configuration import load_mindir_config
from mindspore_paged.sampling.beam_search_params import BeamSearchParams
from mindspore_paged.sampling.logits_processors import resolved_processors
from mindspore_paged.sampling.sampling_params import SamplingParams
from mindspore_paged.wording import shortened


class LLM:
    """A LLaMA model ready to write text: weights loaded, pages allocated, graphs compiled.

    config: an EngineConfig, a YAML file, or None for the defaults; weights: a GGUF file, a Hugging Face folder or
    another checkpoint, in place of model.weights; overrides: `section.key=value`; show_progress: bars on long work.
    Raises ConfigError or CheckpointError, one line that says what is wrong.
    Under msrun every worker makes one, and only rank 0 gets it: the others work for it, and end by SystemExit(0).
    Any thread may call it; `loop` is what drives the engine, which nobody else may touch while requests are under way.

        llm = LLM("configs/smollm2_135m.yaml")
        print(llm.generate("The capital of France is", SamplingParams(max_tokens=16))[0].outputs[0].text)
    """

    def __init__(
        self,
        config: EngineConfig | str | Path | None = None,
        *,
        weights: str | Path | None = None,
        overrides: Sequence[str] = (),
        show_progress: bool = True,
    ):
        if not isinstance(config, EngineConfig):
            config = load_config(config, overrides)
        if weights is not None:
            config = replace(config, model=replace(config.model, weights=Path(weights)))
        _check_processors(config)
        worker, parallel = current_worker(), config.parallel
        with errors_end_the_job():
            size = parallel.resolved_tensor_parallel_size(worker.size)
            self.config = files_of_replica(config, worker.rank // size)
            engine = build_engine(self.config, show_progress)
            self.engine: Engine = serve_or_route(engine, worker.rank, size, parallel.data_parallel_size)
        self.loop = EngineLoop(self.engine)
        self._end_of_loop = weakref.finalize(self, self.loop.close)
        self._show_progress = show_progress

    @classmethod
    def from_mindir(
        cls,
        path: str | Path,
        *,
        overrides: Sequence[str] = (),
        verify_key: str | Path | None = None,
        local_kernels: bool = False,
        show_progress: bool = True,
    ) -> "LLM":
        """The model that scripts/export_mindir.py wrote to `path`, without the model's code.

        An exported folder brings code, its kernels: whoever wrote it is trusted as a program is.
        overrides: `section.key=value`, of all that is not part of the graph: pages, rows, token buckets, policies.
        verify_key: the file of the key that must have signed the folder, before anything of it is loaded.
        local_kernels: the kernels that are installed here in place of the folder's.
        Raises CheckpointError, one line that names the file, if the folder is damaged, not signed, or does not fit
        this machine.
        """
        return cls(load_mindir_config(path, overrides, verify_key, local_kernels), show_progress=show_progress)

    @property
    def tokenizer(self):
        """The model's tokenizer, or None if its files hold none."""
        return self.engine.tokenizer

    def __enter__(self) -> "LLM":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def close(self) -> None:
        """End requests under way, let go of files and threads; nothing may run afterwards."""
        self._end_of_loop()
        self.engine.close()

    def make_request(
        self,
        prompt: Prompt,
        params: SamplingParams | BeamSearchParams | None = None,
        priority: int = 0,
        request_class: str | None = None,
        cache_salt: str | None = None,
        lora_adapter: str | None = None,
    ) -> Request:
        """Check a prompt, without running it; raises RequestError that says what is wrong with it.

        prompt: text, token ids (NumPy's too), chat messages, or a mapping: `{"prompt": …}`, `{"prompt_token_ids": …}`,
        or `{"messages": …}` with `tools`, `chat_template_kwargs`, `add_generation_prompt`, `continue_final_message`.
        priority: the higher, the sooner, for the policy `priority`. request_class: requests of one class are expected
        to get answers of like length. cache_salt: text without which nobody finds the pages of this prompt, or its
        answer in the response cache: it keeps tenants apart, who could tell by the time of an answer what others ask.
        lora_adapter: the name of an adapter that is loaded, which computes the answer beside the model.
        """
        params = self.config.sampling if params is None else params
        if not isinstance(request_class, str | None):
            raise RequestError(f"request_class is {shortened(request_class)}; it must be text")
        if not isinstance(params, SamplingParams | BeamSearchParams):
            raise RequestError(
                f"the sampling params are {shortened(params)}; they must be SamplingParams or BeamSearchParams"
            )
        cuts = isinstance(params, SamplingParams) and params.truncate_prompt_tokens is not None
        prompt = self._text_or_token_ids(prompt, will_be_cut=cuts)
        return self.engine.make_request(
            prompt,
            params,
            priority=priority,
            request_class=request_class,
            cache_salt=cache_salt,
            lora_adapter=lora_adapter,
        )

    def make_embedding_request(
        self,
        prompt: Prompt,
        pooling: str = "mean",
        *,
        priority: int = 0,
        cache_salt: str | None = None,
        lora_adapter: str | None = None,
    ) -> Request:
        """Check a prompt whose embedding is wanted, as `make_request` does; see `embed`."""
        prompt = self._text_or_token_ids(prompt)
        return self.engine.make_request(
            prompt,
            SamplingParams(max_tokens=1),
            priority=priority,
            cache_salt=cache_salt,
            pooling=pooling,
            lora_adapter=lora_adapter,
        )

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | BeamSearchParams | Sequence[SamplingParams | BeamSearchParams] | None = None,
        *,
        lora_adapter: str | Sequence[str | None] | None = None,
    ) -> list[RequestOutput]:
        """Answer every prompt, in the order given; params one for all or one each (None: the config's `sampling`).

        lora_adapter: the name of a loaded adapter, one for all or one each; None is the model alone.
        Raises RequestError before anything runs if any prompt cannot be run.
        """
        prompts = _each(prompts)
        each = _one_each(params, isinstance(params, Sequence), len(prompts), "sampling params")
        is_several = isinstance(lora_adapter, Sequence) and not isinstance(lora_adapter, str)
        adapters = _one_each(lora_adapter, is_several, len(prompts), "names of adapters")
        asked = zip(prompts, each, adapters, strict=True)
        return self.run([self.make_request(prompt, param, lora_adapter=name) for prompt, param, name in asked])

    def beam_search(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: BeamSearchParams | Sequence[BeamSearchParams],
        *,
        lora_adapter: str | Sequence[str | None] | None = None,
    ) -> list[RequestOutput]:
        """The likeliest answers to every prompt, in the order given; params one for all or one each.

        The `outputs` of each are its beams, best first, with cumulative_logprob; the scores that they are compared by
        are this over the number of their token_ids to the power of length_penalty. Sequences and scores are those of
        transformers' generate(num_beams=beam_width, num_return_sequences=beam_width, do_sample=False). A stream of a
        request with BeamSearchParams tells all at its end. Raises RequestError as `generate` does, and for more beams
        than scheduler.max_num_seqs.

            best, *others = llm.beam_search("Paris is", BeamSearchParams(beam_width=4, max_tokens=16))[0].outputs
        """
        each = params if isinstance(params, Sequence) else [params]
        for one in each:
            if not isinstance(one, BeamSearchParams):
                raise RequestError(f"the params of a beam search are {shortened(one)}; they must be BeamSearchParams")
        return self.generate(prompts, params, lora_adapter=lora_adapter)

    def embed(self, prompts: Prompt | Sequence[Prompt], pooling: str = "mean") -> list[RequestOutput]:
        """The embedding of every prompt, in the order given: `embedding`, float32 [hidden_size] of length 1, of each.

        pooling: of the hidden states behind the last norm the `mean` of all tokens, or that of the `last`. A prompt may
        have max_model_len tokens. Raises RequestError as `generate` does, and without runtime.embeddings: true.
        """
        return self.run([self.make_embedding_request(prompt, pooling) for prompt in _each(prompts)])

    def score(self, prompts: Prompt | Sequence[Prompt]) -> list[list[float]]:
        """The natural logarithm of each prompt token's probability behind those before it, from the second on.

        Their sum is the prompt's own, without its first token. A prompt may have max_model_len - 1 tokens. A step reads
        max_num_seqs tokens of them, all prompts together: with scheduler.max_num_seqs=64 they are read about as fast as
        prompts of `generate`. Raises RequestError as `generate` does, and where scheduler.enable_chunked_prefill is
        false; StepError for logits that are not finite.
        """
        told = self.generate(prompts, SamplingParams(max_tokens=1, prompt_logprobs=0))
        for output in told:
            if output.error is not None:
                raise StepError(f"request {output.request_id!r}: {output.error}")
        return [[token.logprob for token in output.prompt_logprobs[1:]] for output in told]

    def chat(
        self,
        messages: Sequence[dict[str, Any]],
        params: SamplingParams | None = None,
        *,
        tools: Sequence[dict[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool = False,
    ) -> RequestOutput:
        """Answer a chat through the model's chat template.

        messages, tools: as OpenAI's API writes them. chat_template_kwargs: what else the template asks for, such as
        `enable_thinking`, over the config's `model.chat_template_kwargs`. continue_final_message: go on where the last
        message ends; otherwise the words that open an answer follow it, unless add_generation_prompt is false.
        """
        chat = {
            "messages": messages,
            "tools": tools,
            "chat_template_kwargs": chat_template_kwargs,
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": continue_final_message,
        }
        return self.run([self.make_request(chat, params)])[0]

    def run(self, requests: Sequence[Request]) -> list[RequestOutput]:
        """Run requests made by `make_request` to their end; if this is interrupted, they are aborted."""
        inbox = _Inbox()
        with tqdm(total=len(requests), desc="Generating", unit="request", disable=not self._show_progress) as bar:
            with self._under_way(requests, inbox):
                num_left = len(requests)
                while num_left:
                    _, ended = inbox.get()
                    num_left -= len(ended)
                    bar.update(len(ended))
        return [request_output(request) for request in requests]

    def stream(self, prompt: Prompt | Request, params: SamplingParams | None = None) -> Iterator[SequenceUpdate]:
        """Yield what each step adds, as it comes; closing a stream aborts its request.

        The request is checked at once; it runs from when the first piece is asked for, and waits for no reader.
        """
        return self._stream(prompt if isinstance(prompt, Request) else self.make_request(prompt, params))

    def abort(self, request_id: str) -> None:
        """End a request now, with `abort` as the reason; whoever waits for it gets what it has so far."""
        self.loop.call(_abort, request_id).result()

    def pin_prefix(self, prompt: str | Sequence[int]) -> int:
        """Compute a text that many prompts begin with, and keep its pages; returns the tokens kept."""
        return self.loop.call(pin_prefix, prompt).result()

    def export_prefix(self, prompt: str | Sequence[int], path: str | Path | None = None) -> bytes:
        """The pages of a text, to be imported by another engine of the same model; also written to `path`."""
        return self.loop.call(export_prefix, prompt, path).result()

    def import_prefix(self, source: bytes | str | Path) -> int:
        """Take pages that `export_prefix` gave; returns their tokens. Raises CheckpointError if they do not fit."""
        return self.loop.call(import_prefix, source).result()

    def load_lora_adapter(self, name: str, folder: str | Path) -> None:
        """Load a PEFT folder, to be asked for by this name; raises RequestError, and loads nothing, where it cannot.

        There must be room: model.max_loras, model.max_lora_rank. Requests go on meanwhile.
        """
        self.loop.call(load_lora_adapter, name, self.engine.lora.read(folder)).result()

    def unload_lora_adapter(self, name: str) -> None:
        """Let no further request have this adapter; those under way end with it. Raises RequestError for an unknown."""
        self.loop.call(unload_lora_adapter, name).result()

    def get_statistics(self) -> dict[str, float | int]:
        """Memory, block utilization, throughput and the like since the engine was built (see `LLMEngine`)."""
        return self.loop.call(_statistics).result()

    def _text_or_token_ids(self, prompt: Prompt, will_be_cut: bool = False) -> str | Sequence[int]:
        kwargs, longest = self.config.model.chat_template_kwargs, self.engine.limits.max_model_len
        return text_or_token_ids(prompt, self.tokenizer, kwargs, None if will_be_cut else longest)

    def _stream(self, request: Request) -> Iterator[SequenceUpdate]:
        inbox = _Inbox()
        with self._under_way([request], inbox):
            ended: list[Request] = []
            while not ended:
                updates, ended = inbox.get()
                yield from updates

    @contextmanager
    def _under_way(self, requests: Sequence[Request], inbox: "_Inbox") -> Iterator[None]:
        """Queue requests, whose news come to the inbox; what has not ended with the block is aborted."""
        added = self.loop.add(requests, inbox)
        try:
            added.result()
            yield
        finally:
            with suppress(EngineStoppedError):
                self.loop.abort(requests, inbox).result()


class _Inbox:
    """What one caller hears of its requests: a Subscriber that a thread can wait for."""

    def __init__(self):
        self._news: SimpleQueue[tuple[list[SequenceUpdate], list[Request]] | BaseException] = SimpleQueue()

    def deliver(self, updates: list[SequenceUpdate], ended: list[Request]) -> None:
        self._news.put((updates, ended))

    def fail(self, requests: list[Request], error: BaseException) -> None:
        self._news.put(error)

    def get(self) -> tuple[list[SequenceUpdate], list[Request]]:
        """The next news, and which requests have ended with it; raises what ended the engine."""
        news = self._news.get()
        if isinstance(news, BaseException):
            raise news
        return news


def _check_processors(config: EngineConfig) -> None:
    try:
        resolved_processors(config.sampling.logits_processors)
    except RequestError as error:
        raise ConfigError(f"sampling.{error}") from None


def _abort(engine: Engine, request_id: str) -> None:
    engine.abort(request_id)


def _statistics(engine: Engine) -> dict[str, float | int]:
    return engine.get_statistics()


def _one_each(given: Any, are_several: bool, count: int, what: str) -> list:
    each = list(given) if are_several else [given] * count
    if len(each) != count:
        raise RequestError(f"{len(each)} {what} for {count} prompts; give one, or one each")
    return each


def _each(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    if not isinstance(prompts, Iterable):
        raise RequestError(f"the prompts are {shortened(prompts)}; they must be a prompt, or a list of prompts")
    return [prompts] if is_one_prompt(prompts) else list(prompts)
