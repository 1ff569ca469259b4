"""A decode step of a tensor-parallel LLaMA on paper: what weights, pages and communication take, over the ranks.

Nothing here is measured: every rate is an assumption that `Cards` states. `python -m mindspore_paged.scaling_model`
prints the tables of docs/scaling.md; `--help` shows what can be changed.
"""

import argparse
import dataclasses
import sys

from mindspore_paged.errors import ConfigError
from mindspore_paged.model_config import ModelConfig
from mindspore_paged.models.registry import model_config_by_name, num_parameters
from mindspore_paged.tensor_parallel import TensorParallel

ITEM_SIZE = 2
"""Bytes of an activation, and of a weight and a page's element unless the caller knows better: float16 or bfloat16."""


@dataclasses.dataclass(frozen=True)
class Cards:
    """Ascend 910B cards, eight to a server that are linked each with each, servers by a network card for each card."""

    memory_gb: float = 64.0
    hbm_gb_s: float = 1600.0
    hbm_share: float = 0.8
    """Of its bandwidth that matrix products and attention reach."""
    tflops: float = 200.0
    """Float16 products that a card reaches."""
    link_gb_s: float = 28.0
    """One direction of the link between two cards of a server (HCCS, 56 GB/s both ways)."""
    network_gb_s: float = 25.0
    """One direction of a card's network (200 Gbit/s)."""
    collective_us: float = 20.0
    """The least that a collective takes within a server, however little it moves."""
    network_us: float = 15.0
    """What it takes more where servers meet."""
    per_server: int = 8


@dataclasses.dataclass(frozen=True)
class Step:
    """Milliseconds of one decode step on one rank, and gigabytes that the rank holds."""

    weights_ms: float
    pages_ms: float
    all_reduce_ms: float
    all_gather_ms: float
    weights_gb: float
    pages_gb: float

    @property
    def compute_ms(self) -> float:
        """Reading weights, or multiplying with them where that takes longer, and reading pages."""
        return self.weights_ms + self.pages_ms

    @property
    def communication_ms(self) -> float:
        """Sums after attention and feed-forward of every layer, the embedding's, and the logits."""
        return self.all_reduce_ms + self.all_gather_ms

    @property
    def total_ms(self) -> float:
        """Nothing overlaps: every product needs the sum before it."""
        return self.compute_ms + self.communication_ms


def decode_step(
    model: ModelConfig,
    cards: Cards,
    ranks: int,
    batch: int,
    context: float,
    *,
    weight_bytes_each: float = ITEM_SIZE,
    kv_bytes_per_token: int | None = None,
) -> Step:
    """One token for each of `batch` sequences of `context` tokens; raises ConfigError if `ranks` cannot share it.

    weight_bytes_each: bytes that a weight takes in memory, not whole where weights are quantized.
    kv_bytes_per_token: bytes that a rank's pages have for a token; None is ITEM_SIZE an element.
    """
    parallel = TensorParallel(0, ranks)
    parallel.check(model)
    share = parallel.share(model)
    weights = rank_weights(model, ranks)
    weight_bytes = weights * weight_bytes_each
    page_bytes = batch * context * (kv_bytes_per_token or share.kv_bytes_per_token(ITEM_SIZE))
    hbm = cards.hbm_gb_s * cards.hbm_share * 1e6
    rows_bytes = batch * model.hidden_size * ITEM_SIZE
    logit_bytes = batch * parallel.vocab(model).length * 4
    return Step(
        weights_ms=max(weight_bytes / hbm, 2 * weights * batch / (cards.tflops * 1e9)),
        pages_ms=page_bytes / hbm,
        all_reduce_ms=(2 * model.num_hidden_layers + 1) * all_reduce_ms(cards, ranks, rows_bytes),
        all_gather_ms=all_gather_ms(cards, ranks, logit_bytes),
        weights_gb=weight_bytes / 1e9,
        pages_gb=page_bytes / 1e9,
    )


def all_reduce_ms(cards: Cards, ranks: int, num_bytes: int) -> float:
    """Sum `num_bytes` over ranks: scatter the sums, then gather them; between servers only a card's part travels."""
    if ranks == 1:
        return 0.0
    local, servers = min(ranks, cards.per_server), -(-ranks // cards.per_server)
    part = num_bytes / local
    time = cards.collective_us * 1e-3 + 2 * part / (cards.link_gb_s * 1e6)
    if servers > 1:
        time += cards.network_us * 1e-3 + 2 * (servers - 1) / servers * part / (cards.network_gb_s * 1e6)
    return time


def all_gather_ms(cards: Cards, ranks: int, part_bytes: int) -> float:
    """Bring every rank's `part_bytes` to all."""
    if ranks == 1:
        return 0.0
    servers = -(-ranks // cards.per_server)
    time = cards.collective_us * 1e-3 + part_bytes / (cards.link_gb_s * 1e6)
    if servers > 1:
        time += cards.network_us * 1e-3 + (servers - 1) * part_bytes / (cards.network_gb_s * 1e6)
    return time


def rank_weights(model: ModelConfig, ranks: int) -> int:
    """Weights of one rank: the share's own, with its part of the vocabulary in place of the whole."""
    parallel = TensorParallel(0, ranks)
    tables = 1 if model.tie_word_embeddings else 2
    others = model.vocab_size - parallel.vocab(model).length
    return num_parameters(parallel.share(model)) - tables * others * model.hidden_size


def table(model: ModelConfig, cards: Cards, sizes: list[int], batch: int, context: int) -> str:
    """Markdown: a decode step over the number of ranks, and how it compares with the smallest that fits in memory."""
    lines = [
        "| ranks | weights, ms | pages, ms | sums, ms | logits, ms | step, ms | tokens/s | GB a card | speed-up |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    first = None
    for size in sizes:
        step = decode_step(model, cards, size, batch, context)
        held = step.weights_gb + step.pages_gb
        fits = held < cards.memory_gb
        if fits and first is None:
            first = step
        speedup = f"{first.total_ms / step.total_ms:.2f}" if fits else "does not fit"
        lines.append(
            f"| {size} | {step.weights_ms:.2f} | {step.pages_ms:.2f} | {step.all_reduce_ms:.2f} "
            f"| {step.all_gather_ms:.2f} | {step.total_ms:.2f} | {batch / step.total_ms * 1e3:.0f} | {held:.1f} "
            f"| {speedup} |"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Print the tables; returns the exit code, 2 for an error that stderr explains."""
    parser = argparse.ArgumentParser(
        prog="python -m mindspore_paged.scaling_model",
        description="Estimate a decode step of a tensor-parallel LLaMA on Ascend 910B cards, from stated bandwidths.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--model", default="llama2-70b", help="a model by name")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="tensor parallel sizes")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32, 128], help="sequences of a step")
    parser.add_argument("--context", type=int, default=2048, help="tokens of each sequence")
    for field in dataclasses.fields(Cards):
        flag = "--" + field.name.replace("_", "-")
        parser.add_argument(flag, type=type(field.default), default=field.default, help="of the cards")
    options = parser.parse_args(arguments)
    cards = Cards(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Cards)})
    try:
        model = model_config_by_name(options.model)
        for batch in options.batches:
            print(f"\n{options.model}, batch {batch}, context {options.context}\n")
            print(table(model, cards, options.ranks, batch, options.context))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
