"""Bad input on the command line: one line on stderr that begins with `error: `, exit code 2, and nothing written."""

import subprocess
import sys
from pathlib import Path

import pytest

from mindspore_paged import cli
from tests import cli_runs
from tests.cli_runs import SMALL, TINY
from tests.weights import tiny

SCRIPT = Path(__file__).parents[1] / "scripts" / "run_generate.py"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder for the files of one run; configs/ is still found."""
    monkeypatch.chdir(Path(__file__).parents[1])
    return tmp_path


@pytest.fixture
def message_of(folder, capsys):
    """The one line that a run is refused with, without `error: `."""

    def refuse(*arguments, overrides=SMALL) -> str:
        answers = folder / "answers.json"
        answers.write_text("of an earlier run")
        before = sorted(folder.rglob("*"))
        code = cli.main([*map(str, arguments), "--json", str(answers), "--set", *overrides])
        out, err = capsys.readouterr()
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert err.endswith("\n")
        assert answers.read_text() == "of an earlier run"
        assert sorted(folder.rglob("*")) == before
        return err.removeprefix("error: ").removesuffix("\n")

    return refuse


@pytest.fixture
def ids(folder):
    """A prompts file that nothing is wrong with."""
    return cli_runs.write_lines(folder / "ids.jsonl", {"prompt_token_ids": [1, 2, 3]})


@pytest.fixture
def unbuilt(monkeypatch):
    """What is refused with this fixture is refused before any weights are read or graphs compiled."""

    def build(*_):
        raise AssertionError("the weights are loaded")

    monkeypatch.setattr("mindspore_paged.engine.building.builder.load_weights", build)


@pytest.mark.usefixtures("unbuilt")
class TestBeforeAnythingIsBuilt:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--prompt", "x"], "no model: give --config FILE, --weights PATH, or both"),
            (TINY, "no prompt: give --prompt TEXT or --prompts-file FILE.jsonl"),
            ([*TINY, "--prompt", "x", "--temperature", "-1"], "temperature is -1.0; it must be 0 or more, and finite"),
            ([*TINY, "--prompt", "x", "--temperature", "nan"], "temperature is nan; it must be a finite number"),
            ([*TINY, "--prompt", "x", "--max-tokens", "0"], "max_tokens is 0; it must be at least 1, or none"),
            ([*TINY, "--prompt", "x", "--beam-width", "0"], "--prompt 1: beam_width is 0; it must be a whole number"),
            (
                [*TINY, "--prompt", "x", "--beam-width", "2", "--temperature", "0.5"],
                "--prompt 1: temperature is 0.5; it must be 0 or 1",
            ),
            ([*TINY, "--prompts-file", "/absent"], "/absent: cannot read the prompts: No such file or directory"),
            (["--config", "/absent", "--prompt", "x"], "/absent: cannot read the configuration: No such file"),
            (["--weights", "/absent", "--prompt", "x"], "/absent: no such file or folder"),
            (["--weights", "~nobody-here/x", "--prompt", "x"], "model.weights is '~nobody-here/x'; it must be a path"),
            (["--config", "configs", "--prompt", "x"], "configs: cannot read the configuration: Is a directory"),
        ],
    )
    def test_arguments(self, message_of, arguments, message):
        assert message_of(*arguments).startswith(message)

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("cache.block_sise=32", "unknown key cache.block_sise; did you mean cache.block_size?"),
            ("cache.block_size=17", "cache.block_size is 17; it must be a multiple of 16"),
            ("num_blocks=5", "override 'num_blocks=5' must look like section.key=value"),
            ("cache.num_blocks=1", "cache.num_blocks is 1; it must be greater than or equal to 2"),
            ("cache.num_blocks=4", "scheduler.max_model_len is 64, but the pool holds 48 tokens; raise"),
            ("cache.memory_budget=1000", "cache.memory_budget of 1000 bytes holds 0 blocks of 16 tokens"),
            ("scheduler.max_model_len=513", "scheduler.max_model_len is 513; the model has 512 positions"),
            ("model.name=llama4", "model.name is 'llama4'; it must be 'llama2-7b'"),
            ("model.config.num_attention_heads=3", "model: num_attention_heads 3 is not a multiple of"),
            ("sampling.top_p=2", "sampling.top_p is 2; it must be above 0 and at most 1"),
            ("runtime.device_target=Ascend", "runtime.device_target is Ascend, but runtime.ops_backend cpu runs on"),
            ("runtime.ops_backend=ascend", "cache.kv_cache_dtype is auto, which is float32; with model.dtype"),
            ("runtime.ops_backend=ascend_emulator", "cache.kv_cache_dtype is auto, which is float32; with model.dtype"),
        ],
    )
    def test_values_of_the_configuration(self, message_of, ids, override, message):
        assert message_of(*TINY, "--prompts-file", ids, overrides=[*SMALL, override]).startswith(message)

    def test_a_yaml_file_with_an_unknown_key(self, message_of, folder, ids):
        config = folder / "own.yaml"
        config.write_text("model: {name: tiny, weights: random}\nscheduler: {max_num_seq: 4}\n")
        message = message_of("--config", config, "--prompts-file", ids)
        assert message == "unknown key scheduler.max_num_seq; did you mean scheduler.max_num_seqs?"

    @pytest.mark.parametrize("place", ["absent/answers.json", "ids.jsonl/answers.json", "."])
    def test_answers_that_could_not_be_written(self, folder, ids, capsys, place):
        path = folder / place
        assert cli_runs.run(*TINY, "--prompts-file", ids, "--json", path) == 2
        assert capsys.readouterr().err == f"error: --json {path}: not a file in a folder that can be written to\n"
        assert list(folder.iterdir()) == [ids]

    def test_a_line_of_the_prompts_file(self, message_of, folder):
        path = cli_runs.write_lines(folder / "p.jsonl", {"prompt": "a"}, {"prompt": "b", "max_token": 3})
        assert (
            message_of(*TINY, "--prompts-file", path)
            == f"{path} line 2: unknown key 'max_token'; did you mean max_tokens?"
        )

    def test_a_gguf_file_cut_short(self, message_of, folder, ids):
        path = cli_runs.write_gguf(folder / "model.gguf")
        path.write_bytes(path.read_bytes()[:-40_000])
        message = message_of("--weights", path, "--prompts-file", ids)
        assert message.startswith(f"{path}: ")
        assert "cut short" in message

    def test_a_gguf_file_of_another_architecture(self, message_of, folder, ids):
        metadata = {key.replace("llama.", "gpt2."): value for key, value in tiny.gguf_metadata().items()}
        path = tiny.write_gguf(folder / "gpt.gguf", tiny.make_weights(), metadata, architecture="gpt2")
        message = message_of("--weights", path, "--prompts-file", ids)
        assert message.startswith(f"{path}: ")
        assert "'gpt2'" in message
        assert "llama" in message

    def test_a_hugging_face_folder_of_another_architecture(self, message_of, folder, ids):
        path = tiny.write_hf_folder(
            folder / "hf", tiny.make_weights(), architectures=["MixtralForCausalLM"], model_type="mixtral"
        )
        message = message_of("--weights", path, "--prompts-file", ids)
        assert "'mixtral'" in message
        assert "allowed: 'llama', 'mistral', " in message

    def test_a_name_that_the_weights_contradict(self, message_of, folder, ids):
        path = cli_runs.write_gguf(folder / "model.gguf")
        message = message_of(*TINY, "--weights", path, "--prompts-file", ids)
        assert message.startswith("model.name tiny has vocab_size 256, but the weights say 259; leave model.name out")


def test_weights_that_lack_a_tensor(message_of, folder, ids):
    weights = {name: values for name, values in tiny.make_weights().items() if "layers.1.mlp.up" not in name}
    path = tiny.write_gguf(folder / "model.gguf", weights)
    message = message_of("--weights", path, "--prompts-file", ids)
    assert message == f"{path}: tensor model.layers.1.mlp.up_proj.weight is missing"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"prompt_token_ids": [1] * 64}, "the prompt has 64 tokens; max_model_len 64 leaves no room for an answer"),
        ({"prompt_token_ids": []}, "the prompt is empty; at least one token is needed"),
        ({"prompt_token_ids": [256]}, "prompt token 256 is no token of this model; allowed: 0..255"),
        ({"prompt": "Hi"}, "the prompt is text, but this model has no tokenizer; give token ids"),
        ({"messages": [{"role": "user", "content": "Hi"}]}, "messages need a tokenizer with a chat template"),
        ({"prompt_token_ids": [1], "stop": "x"}, "stop is ['x']; stop strings need a tokenizer"),
    ],
)
def test_a_prompt_that_the_model_cannot_take_is_named_by_its_line(message_of, folder, line, message):
    path = cli_runs.write_lines(folder / "p.jsonl", {"prompt_token_ids": [1]}, line)
    assert message_of(*TINY, "--prompts-file", path).startswith(f"{path} line 2: {message}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", "x", "--beam-width", "3"], "--prompt 1: beam_width is 3; it must be at most scheduler.max_num"),
        (["--prompt", "fine", ""], "--prompt 2: the prompt is empty; at least one token is needed"),
        (["--prompt", "Long. " * 20], "--prompt 1: the prompt has 120 tokens; max_model_len 64 leaves no room"),
        (["--prompt", "\udcff"], "--prompt 1: the prompt is not Unicode text: '\\udcff' at 0"),
        (["--chat", "--prompt", "\udcff"], "--prompt 1: the prompt is not Unicode text: '\\udcff' at 3"),
    ],
)
def test_a_text_that_the_model_cannot_take(message_of, folder, arguments, message):
    path = cli_runs.write_gguf(folder / "model.gguf")
    assert message_of("--weights", path, *arguments).startswith(message)


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([{"role": "user"}], "content is missing; it must be text"),
        ([{"role": "user", "content": 5}], "content is 5; it must be text"),
        ([{"role": None, "content": "Hi"}], "role is None; it must be text"),
    ],
)
def test_messages_that_are_none(message_of, folder, messages, problem):
    path = cli_runs.write_gguf(folder / "model.gguf")
    lines = cli_runs.write_lines(folder / "p.jsonl", {"messages": messages})
    message = message_of("--weights", path, "--prompts-file", lines)
    assert message.startswith(f"{lines} line 1: messages[0].{problem}")


def test_the_script_exits_with_2_and_no_traceback(folder):
    command = [sys.executable, str(SCRIPT), *TINY, "--temperature", "-1", "--prompt", "x"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "error: temperature is -1.0; it must be 0 or more, and finite\n"


def test_the_script_refuses_a_flag_that_is_no_number(folder):
    command = [sys.executable, str(SCRIPT), *TINY, "--temperature", "warm", "--prompt", "x"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "argument --temperature: invalid float value: 'warm'" in done.stderr.splitlines()[-1]


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["--help"])
    text = capsys.readouterr().out
    assert left.value.code == 0
    for word in ("--config", "--weights", "--prompts-file", "prompt_token_ids", "repetition_penalty", "examples:"):
        assert word in text


def test_help_and_bad_arguments_do_not_wait_for_mindspore(folder):
    program = (
        "import sys; from mindspore_paged.cli import main; main(['--prompt', 'x']); print('mindspore' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
