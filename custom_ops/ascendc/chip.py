"""The rates of an Ascend 910B that the cost model takes, each with where it is from."""

import dataclasses

MEASURED = "measured by Huawei"
PUBLIC = "Huawei's public figures"
ASSUMED = "assumed"
NANOSECONDS_A_US = 1e-3


def _rate(value: float, unit: str, source: str):
    return dataclasses.field(default=value, metadata={"unit": unit, "source": source})


@dataclasses.dataclass(frozen=True)
class Chip:
    """An Ascend 910B3; `wider()` is one with 24 cube cores. Units and sources stand with the fields, see `table()`."""

    cube_cores: int = _rate(20, "cores", f"{PUBLIC}: 910B3; 24 on a 910B1 or 910B2")
    clock_ghz: float = _rate(1.8, "GHz", PUBLIC)
    hbm_gb_s: float = _rate(1600.0, "GB/s", f"{PUBLIC}; the floor of all tables")
    long_row_gb_s: float = _rate(
        58.7, "GB/s a cube core", f"{MEASURED}: GM to L1 with ND2NZ, rows of 512 bytes, 1.41 TB/s on 24"
    )
    short_row_gb_s: float = _rate(44.6, "GB/s a cube core", f"{MEASURED}: the same, rows of 128 bytes, 1.07 TB/s on 24")
    ub_gb_s: float = _rate(
        31.0, "GB/s a vector core", f"{MEASURED}: GM to UB, 1.49 TB/s on 48; the way back is assumed alike"
    )
    launch_us: float = _rate(
        20.0, "us", f"{MEASURED}: all cores of a kernel; what it does before its first tile is within"
    )
    cube_macs_per_cycle: int = _rate(16 * 16 * 16, "a cycle and core", f"{PUBLIC}, float16")
    mte1_bytes_per_cycle: int = _rate(256, "bytes a cycle", ASSUMED + ": L1 to L0")
    fixpipe_bytes_per_cycle: int = _rate(128, "bytes a cycle", ASSUMED + ": L0C to GM")
    l2_gb_s: float = _rate(4800.0, "GB/s", ASSUMED + ": what cores hand each other stays in L2")
    vector_startup_cycles: int = _rate(
        14, "cycles", ASSUMED + ": of a vector instruction beside its repeats, behind a barrier"
    )
    copy_startup_cycles: int = _rate(60, "cycles", ASSUMED + ": the shortest time between two copies of one core")

    @property
    def vector_cores(self) -> int:
        """Two beside each cube core."""
        return 2 * self.cube_cores

    @property
    def cycle_us(self) -> float:
        """Microseconds of a cycle."""
        return NANOSECONDS_A_US / self.clock_ghz

    def load_us(self, num_bytes: float, rows: float) -> float:
        """Microseconds that MTE2 of a cube core takes for `rows` rows of GM.

        A row costs its bytes and a constant, through both measured points; longer rows are no faster than the longest
        of these, which is the port's 32 bytes a cycle.
        """
        per_byte = (512 / self.long_row_gb_s - 128 / self.short_row_gb_s) / (512 - 128)  # ns
        per_row = 128 / self.short_row_gb_s - 128 * per_byte
        by_rows = num_bytes * per_byte + rows * per_row
        return NANOSECONDS_A_US * max(num_bytes / self.long_row_gb_s, by_rows)

    def wider(self) -> "Chip":
        """The same with 24 cube cores, as what was measured."""
        return dataclasses.replace(self, cube_cores=24)

    def table(self) -> str:
        """Markdown: every rate, its unit and its source."""
        lines = ["| rate | value | unit | source |", "|---|---|---|---|"]
        for field in dataclasses.fields(self):
            value = f"{getattr(self, field.name):g}"
            lines.append(f"| `{field.name}` | {value} | {field.metadata['unit']} | {field.metadata['source']} |")
        return "\n".join(lines)
