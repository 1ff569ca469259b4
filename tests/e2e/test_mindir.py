"""An exported model answers as the model that it was exported from, without its code."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mindspore.train.mind_ir_pb2 import ModelProto

from mindspore_paged import LLM, BeamSearchParams, SamplingParams
from mindspore_paged.config import config_from_dict, load_config
from mindspore_paged.custom_ops.build import ISA_VARIABLE, levels_of_machine, runnable_levels
from mindspore_paged.engine.building.exporting import export_model
from mindspore_paged.errors import CheckpointError, ConfigError
from mindspore_paged.mindir.configuration import load_mindir_config
from mindspore_paged.mindir.folder import MindIRFolder, sign_manifest
from mindspore_paged.mindir.step_graph import load_step
from mindspore_paged.weights import exported_checkpoint
from tests.e2e.models import poison_pages

ROOT = Path(__file__).parents[2]
PROMPTS = [[(7 * i + 3 * k) % 256 for k in range(5 + 4 * i)] for i in range(8)]
CRAMPED = ["cache.num_blocks=16", "scheduler.max_num_seqs=8"]


def tiny_config(fused_ops="auto", **model):
    return config_from_dict(
        {
            "model": {"weights": "random", "name": "tiny", **model},
            "cache": {"num_blocks": 16},
            "scheduler": {
                "max_num_seqs": 8,
                "max_num_batched_tokens": 32,
                "token_buckets": [1, 8, 32],
                "max_model_len": 96,
            },
            "runtime": {"debug": True, "fused_ops": fused_ops},
        }
    )


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    return export_model(tiny_config(), tmp_path_factory.mktemp("mindir") / "exported", show_progress=False)


@pytest.fixture(scope="module")
def llms(exported):
    """The model in Python, and the exported one with NaN in every page that is not written."""
    pair = LLM(tiny_config(), show_progress=False), LLM.from_mindir(exported, show_progress=False)
    poison_pages(pair[1].engine.runner.kv_pool)
    yield pair
    for llm in pair:
        llm.engine.check_integrity()
        llm.close()


def tokens_of(llm, params):
    return [[output.token_ids for output in answer.outputs] for answer in llm.generate(PROMPTS, params)]


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(max_tokens=24, ignore_eos=True),
        SamplingParams(max_tokens=24, ignore_eos=True, temperature=0.9, top_p=0.95, seed=7),
        SamplingParams(max_tokens=12, ignore_eos=True, temperature=1.0, n=3, seed=1),
    ],
    ids=["greedy", "seeded", "three answers"],
)
def test_tokens_are_those_of_the_python_model(llms, params):
    """Eight prompts at once in a pool that is too small for them: some are preempted, pages are shared and copied."""
    python, loaded = llms
    before = loaded.get_statistics()["num_preemptions"]
    assert tokens_of(loaded, params) == tokens_of(python, params)
    assert loaded.get_statistics()["num_preemptions"] > before
    assert loaded.get_statistics()["compiles_after_warmup"] == 0


def test_beams_are_those_of_the_python_model(llms):
    params = BeamSearchParams(3, max_tokens=16, ignore_eos=True)
    assert tokens_of(llms[1], params) == tokens_of(llms[0], params)
    assert llms[1].get_statistics()["compiles_after_warmup"] == 0


def test_all_buckets_share_one_set_of_weights_and_one_pool(llms):
    python, loaded = (llm.engine.runner for llm in llms)
    assert loaded.num_compiles == len(loaded.token_buckets) + 5 == python.num_compiles
    assert loaded.weight_bytes == python.weight_bytes
    assert loaded.kv_cache_bytes == python.kv_cache_bytes


def test_pages_rows_and_buckets_are_free_to_choose(exported, llms):
    overrides = ["cache.num_blocks=40", "scheduler.max_num_seqs=3", "scheduler.token_buckets=[1,5,32]"]
    llm = LLM.from_mindir(exported, overrides=overrides, show_progress=False)
    params = SamplingParams(max_tokens=24, ignore_eos=True)
    assert tokens_of(llm, params) == tokens_of(llms[0], params)
    assert llm.get_statistics()["num_preemptions"] == 0
    assert llm.engine.runner.kv_pool.num_blocks == 40
    assert llm.engine.runner.block_tables()[0].shape == (3, 6)


def test_a_signed_folder_runs_with_the_kernels_that_are_installed_here(exported, llms, tmp_path):
    """Its own are replaced by what is no library at all: they are not touched."""
    key, folder = tmp_path / "key", tmp_path / "folder"
    key.write_bytes(b"k" * 32)
    key.chmod(0o600)
    shutil.copytree(exported, folder)
    for library in (folder / "kernels").iterdir():
        write_listed(folder, f"kernels/{library.name}", b"no library")
    sign_manifest(folder, b"k" * 32)
    params = SamplingParams(max_tokens=8, ignore_eos=True)
    with LLM.from_mindir(folder, verify_key=key, local_kernels=True, show_progress=False) as llm:
        assert tokens_of(llm, params) == tokens_of(llms[0], params)


def write_listed(folder: Path, name: str, content: bytes) -> None:
    """Replace a file and what the manifest says of it, as whoever made the folder could."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def graph_with(exported, value: bytes, attribute: str = "func_name") -> bytes:
    graph = ModelProto()
    graph.ParseFromString((exported / "step.mindir").read_bytes())
    for primitive in graph.primitives:
        for each in primitive.attribute:
            if each.name == attribute:
                each.s = value
    return graph.SerializeToString()


@pytest.mark.parametrize("func_name", [b"/lib/libc.so.6:system", b"x@kernel_library@:DecoderStep", b"", b"DecoderStep"])
def test_an_operator_of_another_library_is_refused(exported, tmp_path, func_name):
    folder = tmp_path / "folder"
    shutil.copytree(exported, folder)
    write_listed(folder, "step.mindir", graph_with(exported, func_name))
    with pytest.raises(CheckpointError, match=r"step.mindir: calls \[.*, which is not of its kernel library"):
        load_step(MindIRFolder(folder), 4, 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "MindSpore cannot load it|has not the Parameters"), (b"\xff" * 100, "not the graph of a step")],
)
def test_bytes_that_are_no_graph_are_refused(exported, tmp_path, content, message):
    folder = tmp_path / "folder"
    shutil.copytree(exported, folder)
    write_listed(folder, "step.mindir", content)
    with pytest.raises(CheckpointError, match=message) as error:
        load_step(MindIRFolder(folder), 4, 1)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes", [{"offset": 2**40}, {"parameter": "absent"}, {"format": "object"}, {"shape": [2**30, 64]}]
)
def test_a_weight_that_does_not_lie_in_its_parameter_is_refused(exported, changes):
    folder = MindIRFolder(exported)
    name = "model.layers.0.self_attn.q_proj.weight"
    weights = folder.manifest.weights
    folder.manifest = replace(folder.manifest, weights=weights | {name: replace(weights[name], **changes)})
    with pytest.raises(CheckpointError, match="the graph has not the Parameters that manifest.json speaks of"):
        load_step(folder, 4, 1)


@pytest.mark.parametrize(
    "override",
    ["cache.block_size=32", "model.dtype=float16", "cache.kv_cache_dtype=float16", "scheduler.max_model_len=64"],
)
def test_what_is_part_of_the_graph_is_not_free(exported, override):
    key = override.partition("=")[0]
    with pytest.raises(CheckpointError, match=f"exported with {key} .*, and {key} is .* here"):
        LLM.from_mindir(exported, overrides=[override], show_progress=False)


def test_there_is_no_graph_for_embeddings(exported):
    with pytest.raises(ConfigError, match="runtime.embeddings is true; an exported model has no graph for them"):
        LLM.from_mindir(exported, overrides=["runtime.embeddings=true"], show_progress=False)


def test_another_op_backend_is_refused(exported):
    overrides = ["runtime.ops_backend=ascend_emulator"]
    with pytest.raises((CheckpointError, ConfigError), match="kv_cache_dtype|exported with runtime.ops_backend"):
        LLM.from_mindir(exported, overrides=overrides, show_progress=False)


def test_another_model_is_refused(exported):
    with pytest.raises(CheckpointError, match="the graph is of another model"):
        LLM.from_mindir(exported, overrides=["model.config.rope_theta=5000.0"], show_progress=False)


def test_a_moved_read_only_folder_runs_without_the_models_code(exported, llms, tmp_path):
    """In a process of its own, from another working directory; nothing is written next to the model.

    What families are made of, as data, is known there all the same.
    """
    moved = tmp_path / "moved"
    shutil.copytree(exported, moved)
    for path in [*moved.rglob("*"), moved]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = sorted(moved.rglob("*"))
    code = (
        "import sys\n"
        "from mindspore_paged import LLM, SamplingParams\n"
        f"llm = LLM.from_mindir({str(moved)!r}, show_progress=False)\n"
        f"print(llm.generate([{PROMPTS[0]}], SamplingParams(max_tokens=8, ignore_eos=True))[0].outputs[0].token_ids)\n"
        "parts = ('decoder', 'executions', 'model_step', 'model_weights')\n"
        "print([part for part in parts if f'mindspore_paged.models.{part}' in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT), "GLOG_v": "3"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    expected = llms[0].generate([PROMPTS[0]], SamplingParams(max_tokens=8, ignore_eos=True))[0].outputs[0].token_ids
    assert done.stdout.splitlines()[-2:] == [str(expected), "[]"]
    assert sorted(moved.rglob("*")) == before


def test_the_graph_names_no_path_of_this_machine(exported):
    assert str(ROOT).encode() not in (exported / "step.mindir").read_bytes()
    assert str(ROOT) not in (exported / "config.yaml").read_text() + (exported / "manifest.json").read_text()


def held_in(place):
    values = place.parameter.asnumpy()
    return values if place.is_alone else place.within(values)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_are_stored_as_the_graph_has_them(tmp_path, monkeypatch, dtype):
    """In several files, as those of a model beyond one file's limit are; in rows, also where layers take panels."""
    monkeypatch.setattr(exported_checkpoint, "BYTES_OF_A_FILE", 20_000)
    folder = export_model(tiny_config(dtype=dtype), tmp_path / "out", show_progress=False)
    checkpoint = exported_checkpoint.ExportedCheckpoint(exported_checkpoint.MindIRFolder(folder))
    assert len(checkpoint.folder.weight_files) > 3
    like = tiny_config(fused_ops=dtype == "float32")
    model = LLM(like, show_progress=False).engine.runner.model
    python = model.weight_places()
    assert set(checkpoint.names()) == set(python)
    for name, place in python.items():
        assert checkpoint.dtype(name).name == dtype
        rounding = {"float32": 0, "float16": 2**-10, "bfloat16": 2**-8}[dtype]
        arranged = model.arranged(name, checkpoint.read(name).astype(np.float32))
        np.testing.assert_allclose(arranged, held_in(place), rounding, 1e-7)


@pytest.mark.parametrize("weight_dtype", ["int8", "bfloat16", "w16a16"])
def test_narrow_weights(tmp_path, weight_dtype):
    config = tiny_config(weight_dtype=weight_dtype)
    folder = export_model(config, tmp_path / "out", show_progress=False)
    params = SamplingParams(max_tokens=4, ignore_eos=True)
    with LLM(config, show_progress=False) as here, LLM.from_mindir(folder, show_progress=False) as exported:
        assert tokens_of(exported, params) == tokens_of(here, params)


def emulated_config(fused_ops):
    config = tiny_config(fused_ops, config={"biases": ["q_proj", "k_proj", "v_proj"], "qk_norm": True})
    runtime = replace(config.runtime, ops_backend="ascend_emulator")
    return replace(config, runtime=runtime, cache=replace(config.cache, kv_cache_dtype="float16"))


@pytest.mark.slow
@pytest.mark.parametrize("fused_ops", [True, False])
def test_layers_of_few_launches(tmp_path, fused_ops):
    """Several weights of one type in a Parameter; a manifest that puts one beyond it is refused."""
    config = emulated_config(fused_ops)
    folder = export_model(config, tmp_path / "out", show_progress=False)
    params = SamplingParams(max_tokens=4, ignore_eos=True)
    with LLM(config, show_progress=False) as here, LLM.from_mindir(folder, show_progress=False) as exported:
        assert tokens_of(exported, params) == tokens_of(here, params)
        assert exported.engine.model_fingerprint == here.engine.model_fingerprint
    folder = MindIRFolder(folder)
    name = "model.layers.1.self_attn.v_proj.weight"
    weights, offset = folder.manifest.weights, folder.manifest.weights[name].offset
    assert (offset > 0) == fused_ops
    for changes in ({"offset": offset + 2**20}, {"offset": offset + 2}, {"format": "float16"}) if fused_ops else ():
        changed = weights | {name: replace(weights[name], **changes)}
        folder.manifest = replace(folder.manifest, weights=changed)
        with pytest.raises(CheckpointError, match="the graph has not the Parameters that"):
            load_step(folder, 4, 1)


@pytest.mark.slow
@pytest.mark.parametrize("weight_dtype", ["float32", "int8", "bfloat16", "w16a16"])
def test_portable_kernels_run_at_every_level(tmp_path, weight_dtype, monkeypatch):
    """One folder, whose weights each level's kernels want in an order of their own; tokens are those of Python."""
    config = tiny_config(weight_dtype=weight_dtype)
    folder = export_model(config, tmp_path / "out", portable_kernels=True, show_progress=False)
    files = sorted(path.name for path in (folder / "kernels").iterdir())
    assert files == sorted(level.library_name for level in levels_of_machine())
    params, levels = SamplingParams(max_tokens=4, ignore_eos=True), runnable_levels()
    for level in levels:
        monkeypatch.setenv(ISA_VARIABLE, level.name)
        with LLM(config, show_progress=False) as here, LLM.from_mindir(folder, show_progress=False) as exported:
            assert MindIRFolder(folder).kernel_library == folder / "kernels" / level.library_name
            assert tokens_of(exported, params) == tokens_of(here, params)


@pytest.mark.slow
def test_biases_and_scaled_rotary_embeddings(tmp_path):
    rope = {"type": "longrope", "factor": 4.0, "original_max_position_embeddings": 64}
    rope |= {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8, "divisors": [1.5] * 8}
    shape = {"biases": ["q_proj", "k_proj", "v_proj", "down_proj"], "rope_scaling": rope}
    config = tiny_config(weight_dtype="int8", config=shape)
    folder = export_model(config, tmp_path / "out", show_progress=False)
    params = SamplingParams(max_tokens=4, ignore_eos=True)
    with LLM(config, show_progress=False) as here, LLM.from_mindir(folder, show_progress=False) as exported:
        assert tokens_of(exported, params) == tokens_of(here, params)
        assert exported.engine.model_fingerprint == here.engine.model_fingerprint


def test_a_folder_in_use_is_not_written_over(tmp_path):
    (tmp_path / "mine").write_text("keep")
    with pytest.raises(ConfigError, match="already there; give a new folder"):
        export_model(tiny_config(), tmp_path, show_progress=False)
    assert (tmp_path / "mine").read_text() == "keep"


def test_a_failed_export_leaves_nothing(tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr("mindspore_paged.engine.building.exporting.write_weights", fail)
    with pytest.raises(OSError, match="disk full"):
        export_model(tiny_config(), tmp_path / "out", show_progress=False)
    assert list(tmp_path.iterdir()) == []


def test_ascend_is_refused_with_the_reason(tmp_path):
    config = config_from_dict({"runtime": {"device_target": "Ascend", "ops_backend": "ascend"}})
    with pytest.raises(ConfigError, match="runtime.ops_backend is ascend"):
        export_model(config, tmp_path / "out")


@pytest.mark.slow
def test_the_demo_model_from_files(tmp_path, demo_model):
    """Batch 8 with preemption, greedy and seeded; its tokenizer and its chat template are those of the GGUF file."""
    config = load_config(
        ROOT / "configs" / "smollm2_135m.yaml",
        ["cache.num_blocks=25", "scheduler.max_num_seqs=8", "scheduler.max_model_len=256"],
    )
    folder = export_model(config, tmp_path / "out", show_progress=False)
    prompts = [
        f"The {word} of France is"
        for word in ["capital", "king", "food", "history", "river", "language", "flag", "anthem"]
    ]
    chat = [{"role": "user", "content": "Why is the sky blue?"}]
    answers = []
    llms = [LLM(config, show_progress=False), LLM(load_mindir_config(folder), show_progress=False)]
    for llm in llms:
        greedy = llm.generate(prompts, SamplingParams(max_tokens=48, ignore_eos=True))
        seeded = llm.generate(prompts, SamplingParams(max_tokens=48, ignore_eos=True, temperature=0.8, seed=3))
        texts = [answer.outputs[0].text for answer in (*greedy, *seeded, llm.chat(chat, SamplingParams(max_tokens=16)))]
        tokens = [answer.outputs[0].token_ids for answer in (*greedy, *seeded)]
        answers.append((texts, tokens, llm.tokenizer.encode_chat(chat), llm.tokenizer.eos_token_ids))
        assert llm.get_statistics()["num_preemptions"] > 0
        assert llm.get_statistics()["compiles_after_warmup"] == 0
    assert answers[0] == answers[1]
