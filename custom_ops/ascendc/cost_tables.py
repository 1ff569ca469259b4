"""The tables of docs/ascend_performance.md, which `cost_model` prints and writes there."""

import dataclasses
import re
from collections.abc import Sequence

from mindspore_paged.custom_ops.ascendc.attention_time import ISSUE, estimate
from mindspore_paged.custom_ops.ascendc.chip import Chip
from mindspore_paged.custom_ops.ascendc.emulator_counts import Attention
from mindspore_paged.custom_ops.ascendc.step_model import LAUNCHES_PLANNED, LAUNCHES_TODAY, decode_step
from mindspore_paged.errors import ConfigError
from mindspore_paged.models.registry import model_config_by_name
from mindspore_paged.scaling_model import Cards

NAMES = ("rates", "decode", "groups", "prefill", "int8", "block_sizes", "step", "operators")
MODEL = "llama3-70b"
GROUPS, CHUNKS, CHUNK_GROUPS, BLOCK_SIZES = (1, 2, 3, 4, 8, 16), (512, 2048), (1, 8), (16, 32, 64, 128, 256)
TABLE = re.compile(r"<!-- table: (\w+) -->\n.*?<!-- end of table -->", re.DOTALL)
"""The place of a table on a page."""


@dataclasses.dataclass(frozen=True)
class Tables:
    """What the tables are of: a card's share of a model's attention, a chip, and the sizes of steps."""

    shape: Attention
    chip: Chip
    layers: int = 80
    ranks: int = 8
    batches: tuple[int, ...] = (1, 8, 32, 64)
    contexts: tuple[int, ...] = (512, 2048, 8192, 32768)
    launches: tuple[int, ...] = (LAUNCHES_TODAY, LAUNCHES_PLANNED)
    cards: Cards = dataclasses.field(default_factory=Cards)

    def made(self, names: Sequence[str]) -> dict[str, str]:
        """The Markdown of tables by their NAMES; raises BuildError without the emulator."""
        return {name: getattr(self, name)() for name in names}

    def rates(self) -> str:
        """Every constant of the chip with its source."""
        return self.chip.table()

    def _decode_shapes(self):
        for batch in self.batches:
            for context in self.contexts:
                yield dataclasses.replace(self.shape, batch=batch, context=context)

    def decode(self) -> str:
        """Attention of all layers in a decode step, over batch and context."""
        rows, scale = [], self.layers * 1e-3
        for shape in self._decode_shapes():
            vector, cube = estimate(shape, self.chip, "vector"), estimate(shape, self.chip, "cube")
            wide, bound = estimate(shape, self.chip.wider(), "cube"), cube.lower_bound
            rows.append(
                (shape.batch, shape.context, f"{vector.total * scale:.2f}", vector.limit, f"{cube.total * scale:.2f}",
                 cube.limit, f"{wide.total * scale:.2f}", f"{bound * scale:.2f}", f"{cube.total / bound:.1f}",
                 f"{cube.work / bound:.1f}")
            )  # fmt: skip
        header = ("batch", "context", "vector, ms", "its limit", "cube, ms", "its limit", "24 cores, ms", "floor, ms")
        return _markdown((*header, "cube / floor", "without launches"), rows)

    def groups(self) -> str:
        """One layer over the number of query heads a KV head."""
        rows = []
        for group in GROUPS:
            shape = dataclasses.replace(self.shape, num_heads=group * self.shape.num_kv_heads)
            vector = estimate(shape, self.chip, "vector")
            cube = estimate(shape, self.chip, "cube") if group > 1 else None
            of_cube = (f"{cube.work:.1f}", cube.limit) if cube else ("-", "-")
            rows.append((group, f"{vector.work:.1f}", vector.limit, *of_cube, f"{vector.lower_bound:.1f}"))
        header = ("query heads a KV head", "vector, us", "its limit", "cube, us", "its limit", "floor, us")
        return _markdown(header, rows)

    def prefill(self) -> str:
        """One layer's attention of one chunk at the begin of a prompt."""
        rows = []
        for group in CHUNK_GROUPS:
            for chunk in CHUNKS:
                shape = dataclasses.replace(
                    self.shape, batch=1, context=chunk, new_tokens=chunk, num_heads=group * self.shape.num_kv_heads
                )
                found = estimate(shape, self.chip)
                macs = (
                    shape.num_heads * shape.head_dim * chunk * (chunk + 1)
                )  # of both products, what is masked left out
                peak = self.chip.cube_cores * self.chip.cube_macs_per_cycle
                floor = max(macs / peak * self.chip.cycle_us, found.lower_bound)
                rows.append(
                    (group, chunk, found.variant, f"{found.work:.0f}", found.limit, f"{floor:.1f}",
                     f"{found.work / floor:.0f}")
                )  # fmt: skip
        header = ("query heads a KV head", "chunk", "variant", "us", "its limit", "floor, us", "over floor")
        return _markdown(header, rows)

    def int8(self) -> str:
        """Decode over pages of int8 beside those of float16: all layers, in the variant that the tiling takes."""
        rows, scale = [], self.layers * 1e-3
        for shape in self._decode_shapes():
            if shape.context not in (2048, 8192):
                continue
            halves, quantized = (
                estimate(dataclasses.replace(shape, is_int8=is_int8), self.chip) for is_int8 in (False, True)
            )
            rows.append(
                (shape.batch, shape.context, f"{halves.total * scale:.2f}", quantized.variant,
                 f"{quantized.total * scale:.2f}", quantized.limit, f"{quantized.lower_bound * scale:.2f}")
            )  # fmt: skip
        header = ("batch", "context", "float16, ms", "variant of int8", "int8, ms", "its limit", "floor of int8, ms")
        return _markdown(header, rows)

    def block_sizes(self) -> str:
        """One layer over the block size, and what issuing the copies takes of it."""
        rows = []
        for block_size in BLOCK_SIZES:
            shape = dataclasses.replace(self.shape, block_size=block_size)
            vector, cube = estimate(shape, self.chip, "vector"), estimate(shape, self.chip, "cube")
            rows.append((block_size, f"{vector.work:.1f}", f"{cube.work:.1f}", f"{cube.units[ISSUE]:.1f}"))
        return _markdown(("block_size", "vector, us", "cube, us", "issue of loads, us (cube)"), rows)

    def step(self) -> str:
        """A whole decode step at context 2048, over the batch and the launches of a layer."""
        rows = []
        for batch in self.batches:
            steps = [self._step(batch, launches) for launches in self.launches]
            operators = steps[0].operators
            sums = operators["AllReduce"] + operators["AllGather"]
            weights = sum(operators.values()) - sums - operators["attention"]
            cells = [f"{step.launches_ms:.1f} | {step.total:.1f} | {batch / step.total * 1e3:.0f}" for step in steps]
            rows.append((batch, f"{weights:.1f}", f"{operators['attention']:.1f}", f"{sums:.1f}", *cells))
        header = ["batch", "products, ms", "attention, ms", "sums, ms"]
        for launches in self.launches:
            header += [f"{launches} launches a layer, ms", "step, ms", "tokens/s"]
        return _markdown(header, rows)

    def operators(self) -> str:
        """The same step at batch 32 by operator, milliseconds and share."""
        steps = [self._step(32, launches) for launches in self.launches]
        names = [*steps[0].operators, "launches"]
        rows = []
        for name in names:
            times = [step.operators.get(name, step.launches_ms) for step in steps]
            shares = (f"{time:.2f} | {100 * time / step.total:.0f}%" for time, step in zip(times, steps, strict=True))
            rows.append((name, *shares))
        rows.append(("step", *(f"{step.total:.2f} | 100%" for step in steps)))
        header = ["operator"]
        for launches in self.launches:
            header += [f"{launches} launches a layer, ms", "share"]
        return _markdown(header, rows)

    def _step(self, batch: int, launches: int):
        model = model_config_by_name(MODEL)
        return decode_step(model, self.chip, self.cards, self.ranks, batch, 2048, launches)


def with_tables(page: str, tables: dict[str, str]) -> str:
    """A page with every table where its name stands; raises ConfigError for a place or a table without the other."""
    places = TABLE.findall(page)
    if sorted(places) != sorted(tables):
        raise ConfigError(f"the page has places for the tables {', '.join(places)}, there are {', '.join(tables)}")
    return TABLE.sub(lambda match: f"<!-- table: {match[1]} -->\n{tables[match[1]]}\n<!-- end of table -->", page)


def _markdown(header, rows) -> str:
    cells = [" | ".join(map(str, line)) for line in (header, *rows)]
    columns = cells[0].count("|") + 1
    return "\n".join([f"| {cells[0]} |", "|" + "---|" * columns, *(f"| {line} |" for line in cells[1:])])
