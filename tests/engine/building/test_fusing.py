"""Which models the operators of Ascend fuse, and what is said of the others."""

from dataclasses import replace

import pytest

from mindspore_paged.config import config_from_dict
from mindspore_paged.engine.building.plan import make_plan
from mindspore_paged.errors import ConfigError
from mindspore_paged.models.registry import MODEL_CONFIGS
from mindspore_paged.tensor_parallel import WHOLE, TensorParallel
from mindspore_paged.weights.lora_adapter import AdapterRoom

TINY = MODEL_CONFIGS["tiny"]
ROOM = AdapterRoom(2, 4)
OTHERS = [
    ({"hidden_size": 72}, None, "the model's hidden_size is 72, no multiple of 16"),
    ({"head_dim": 256}, None, "the model's head_dim is 256, more than 128"),
    ({"hidden_size": 32784}, None, "the model's hidden_size is 32784, more than 32768"),
    ({"intermediate_size": 100}, None, "the model's intermediate_size is 100, no multiple of 16"),
    ({"rotary_dim": 12}, None, "the model's rotary_dim is 12, no multiple of 16"),
    ({}, ROOM, "model.max_loras is 2, and adapters stand beside each projection alone"),
]


def plan_of(fused_ops="auto", changes=(), room=None, parallel=WHOLE, report=False, **model):
    config = config_from_dict(
        {
            "model": model,
            "cache": {"num_blocks": 9, "kv_cache_dtype": "float16"},
            "runtime": {"ops_backend": "ascend_emulator", "fused_ops": fused_ops},
        }
    )
    return make_plan(config, replace(TINY, **dict(changes)), parallel, adapter_room=room, report=report)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("fused_ops", ["auto", True, False])
def test_a_model_whose_widths_fit(capsys, dtype, fused_ops):
    plan = plan_of(fused_ops, report=True, dtype=dtype)
    assert (plan.is_fused, plan.formats, plan.is_one_operator) == (fused_ops is not False, None, False)
    assert "fused_ops" not in capsys.readouterr().err


@pytest.mark.parametrize(("changes", "room", "reason"), OTHERS, ids=[reason for *_, reason in OTHERS])
def test_others_are_computed_operator_by_operator(capsys, changes, room, reason):
    assert not plan_of("auto", changes, room, report=True).is_fused
    assert capsys.readouterr().err == f"fused_ops: false ({reason})\n"
    assert not plan_of(False, changes, room).is_fused
    with pytest.raises(ConfigError) as caught:
        plan_of(True, changes, room)
    assert str(caught.value) == (
        f"runtime.fused_ops is true; with runtime.ops_backend ascend_emulator it cannot be: {reason}"
    )


def test_it_is_a_rank_s_share_that_has_to_fit():
    changes = {"intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}
    assert plan_of(changes=changes, parallel=TensorParallel(1, 2)).is_fused
    assert not plan_of(changes=changes, parallel=TensorParallel(1, 4)).is_fused
