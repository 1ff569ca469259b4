"""Which models can stand beside each other, and how the pool is shared out among them."""

from dataclasses import replace

import pytest
import tokenizers

from mindspore_paged.config import config_from_dict
from mindspore_paged.engine.building.draft import Draft, open_draft, plan_draft
from mindspore_paged.engine.building.exporting import export_model
from mindspore_paged.engine.building.plan import make_plan
from mindspore_paged.errors import CheckpointError, ConfigError
from mindspore_paged.mindir.folder import MANIFEST
from mindspore_paged.models.registry import MODEL_CONFIGS
from mindspore_paged.tensor_parallel import WHOLE, TensorParallel
from mindspore_paged.tokenizer import Tokenizer
from mindspore_paged.weights.exported_checkpoint import ExportedCheckpoint
from mindspore_paged.weights.random_checkpoint import RandomCheckpoint
from tests.e2e.draft_models import write_draft

TINY = MODEL_CONFIGS["tiny"]


def config_of(draft, runtime=None, **scheduler):
    return config_from_dict(
        {
            "model": {"weights": "random", "name": "tiny"},
            "cache": {"memory_budget": 2**20},
            "scheduler": {"num_speculative_tokens": 2, "speculative_model": str(draft)} | scheduler,
            "runtime": runtime or {},
        }
    )


def tokenizer_of(vocabulary: dict[str, int]) -> Tokenizer:
    return Tokenizer(tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary)), None, (), None)


def draft_of(**changes) -> Draft:
    model = replace(TINY, **changes)
    return Draft(RandomCheckpoint(model), model, "auto")


def plan_of(**model):
    return make_plan(config_from_dict({"scheduler": {"max_model_len": 256}}), replace(TINY, **model))


def message_of(call, *arguments) -> str:
    with pytest.raises(ConfigError) as raised:
        call(*arguments)
    return str(raised.value)


def test_the_pool_holds_pages_of_both_models():
    config = config_of("unread")
    draft = replace(TINY, num_hidden_layers=1, num_key_value_heads=1)
    of_model, of_draft = (
        2 * 2 * 2 * 16 * 4 * 16,
        1 * 2 * 1 * 16 * 4 * 16,
    )  # layers, keys and values, heads, numbers, bytes
    assert make_plan(config, TINY).num_blocks == 2**20 // of_model
    assert make_plan(config, TINY, draft=draft).num_blocks == 2**20 // (of_model + of_draft)


def test_a_draft_has_the_blocks_rows_and_graphs_of_the_model():
    plan = plan_of()
    own = plan_draft(draft_of(num_hidden_layers=1), plan, None)
    assert own.model.num_hidden_layers == 1
    assert (own.num_blocks, own.block_size, own.table_shape) == (plan.num_blocks, plan.block_size, plan.table_shape)
    assert own.token_buckets == plan.token_buckets
    assert own.logits_per_seq == 1


def test_none_is_opened_where_none_is_named():
    assert open_draft(config_from_dict({}), RandomCheckpoint(TINY), WHOLE) is None


def test_ranks_share_no_model_that_has_one():
    assert message_of(open_draft, config_of("unread"), RandomCheckpoint(TINY), TensorParallel(0, 2)) == (
        "scheduler.speculative_model is set and 2 ranks share the model (parallel.tensor_parallel_size); a draft model "
        "needs a model of one rank"
    )


def test_exported_models_have_none_and_are_none(tmp_path):
    exported = ExportedCheckpoint.__new__(ExportedCheckpoint)
    exported.path = tmp_path
    assert "runs without a draft model" in message_of(open_draft, config_of("unread"), exported, WHOLE)
    (tmp_path / MANIFEST).write_text("{}")
    message = message_of(open_draft, config_of(tmp_path), RandomCheckpoint(TINY), WHOLE)
    assert (
        message == f"scheduler.speculative_model is {tmp_path}, an exported model; give the weights that it was made of"
    )
    assert message_of(export_model, config_of("unread"), tmp_path / "new") == (
        "scheduler.speculative_model must be left out for an export: the folder holds one model"
    )
    assert not (tmp_path / "new").exists()


def test_what_is_not_there_is_an_error_of_the_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        open_draft(config_of(tmp_path / "none"), RandomCheckpoint(TINY), WHOLE)


def test_blocks_of_few_bits_need_fused_operators(tmp_path):
    config = config_of(write_draft(tmp_path / "draft"), {"fused_ops": False}, speculative_weight_dtype="int8")
    message = message_of(open_draft, config, RandomCheckpoint(TINY), WHOLE)
    assert message.startswith("scheduler.speculative_weight_dtype is int8, which needs fused operators")


@pytest.mark.parametrize(
    ("model", "draft", "message"),
    [
        ({}, {"vocab_size": 300}, "a vocabulary of 300 tokens, the model one of 256; without the tokenizers of both"),
        ({}, {"max_position_embeddings": 128}, "128 positions (max_position_embeddings), but sequences may have 256"),
        ({"sliding_window": 64}, {}, "sees all tokens; the model's pages are kept for the last 64 tokens"),
    ],
)
def test_models_that_do_not_go_together(model, draft, message):
    assert message in message_of(plan_draft, draft_of(**draft), plan_of(**model), None)


def test_heads_that_the_kernels_do_not_take():
    config = config_from_dict({"runtime": {"ops_backend": "ascend_emulator"}, "cache": {"kv_cache_dtype": "float16"}})
    message = message_of(plan_draft, draft_of(head_dim=1024), make_plan(config, TINY), None)
    assert message.startswith("scheduler.speculative_model: the model's head_dim is 1024; with runtime.ops_backend asc")


WORDS = {f"word{number}": number for number in range(250)}


@pytest.mark.parametrize(
    ("vocabulary", "size", "message"),
    [
        (WORDS, 250, None),
        (WORDS, 512, None),
        (WORDS | {"reserved": 250}, 256, None),
        (WORDS, 249, "their tokenizers have 250 tokens"),
        (WORDS | {"word7": 8, "word8": 7}, 256, "has the token 'word7' as 8, the model as 7"),
        ({f"other{number}": number for number in range(250)}, 256, "they have 0 tokens in common"),
    ],
)
def test_vocabularies_may_differ_by_padding_alone(monkeypatch, vocabulary, size, message):
    monkeypatch.setattr("mindspore_paged.engine.building.draft.load_tokenizer", lambda source: tokenizer_of(vocabulary))
    arguments = draft_of(vocab_size=size), plan_of(), tokenizer_of(WORDS)
    if message is None:
        assert plan_draft(*arguments).model.vocab_size == size
    else:
        assert message in message_of(plan_draft, *arguments)
