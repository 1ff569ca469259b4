"""Whether a model's layers are made of fused operators of a backend, or why they are not."""

import sys

from tqdm import tqdm

from mindspore_paged.config import EngineConfig
from mindspore_paged.custom_ops.backends import BACKENDS, WidthRule
from mindspore_paged.errors import ConfigError
from mindspore_paged.model_config import ModelConfig
from mindspore_paged.weights.lora_adapter import AdapterRoom


def is_fused_here(
    config: EngineConfig, share: ModelConfig, adapter_room: AdapterRoom | None, report: bool = False
) -> bool:
    """What runtime.fused_ops comes to for a rank's share of a model.

    report: print why `auto` is false where the backend has fused operators, but none for this model. Raises ConfigError
    where it is true, and there are none.
    """
    backend = BACKENDS[config.runtime.ops_backend]
    if not config.fused_ops or backend.whole_layers:
        return config.fused_ops
    reason = why_not_fused(backend.widths, share, adapter_room)
    if reason is None:
        return True
    if config.runtime.fused_ops is True:
        raise ConfigError(f"runtime.fused_ops is true; with runtime.ops_backend {backend.name} it cannot be: {reason}")
    if report:
        tqdm.write(f"fused_ops: false ({reason})", file=sys.stderr)
    return False


def why_not_fused(widths: WidthRule, share: ModelConfig, adapter_room: AdapterRoom | None) -> str | None:
    """Why a model's layers are computed operator by operator by a backend of this rule; None if they need not be."""
    if adapter_room is not None:
        return f"model.max_loras is {adapter_room.number}, and adapters stand beside each projection alone"
    for name, value in (
        ("hidden_size", share.hidden_size),
        ("intermediate_size", share.intermediate_size),
        ("head_dim", share.head_dim),
        ("rotary_dim", share.rotated),
    ):
        if value % widths.step:
            return f"the model's {name} is {value}, no multiple of {widths.step}"
    for name, value, most in (
        ("hidden_size", share.hidden_size, widths.most_hidden),
        ("head_dim", share.head_dim, widths.most_head),
    ):
        if value > most:
            return f"the model's {name} is {value}, more than {most}"
    return None
