"""Make pre_tokenizers.json: how llama.cpp cuts texts into words, for each way that `tokenizer.ggml.pre` may name.

Run where llama.cpp's library is, with gguf beside it:
    pip install llama-cpp-py-sync xllamacpp gguf
    python tests/goldens/make_pre_tokenizer_goldens.py

(The first package says what llama.cpp's functions take, and the second has a library that older systems can load.)
llama.cpp does not show its words. So each text gets a vocabulary of its own: every run of its bytes is a token, and
every two tokens that stand beside each other merge. Then each word becomes one token, whatever stands in it.
"""

import json
import tempfile
from pathlib import Path

import gguf
import xllamacpp.xllamacpp
from llama_cpp_py_sync._cffi_bindings import get_ffi

KINDS = [
    *("default", "gpt-2", "smollm", "llama-bpe", "falcon3", "smaug-bpe", "qwen2", "deepseek-r1-qwen", "tekken"),
    *("deepseek-llm", "deepseek-coder", "deepseek-v3", "gpt-4o", "falcon", "seed-coder", "stablelm2", "minerva-7b"),
]
TEXTS = [
    *("  ", "\n\n", "\t\tx", " a", "a ", "a  b   c", "Hello, world!"),
    *("hello\nworld\r\n\r\nagain  \n  x", "I'm you're we'll they'd", "it's I'VE DON'T", "1234567890"),
    *("3.14159, 1,000,000", "x1y22z333 0x1F", "²³ ½ Ⅷ", "٣٤٥"),
    *("for i in range(10):\n\tprint(f'{i}')\n", "if (a && b || !c) {return x[0];}"),
    *("// ok /* 5 */ #!/bin/sh", "naïve café Zoë —", "“quoted” … £€¥", "你好，世界！今天", "是2024年。 あ"),
    *("こんにちは 世界", "カタカナ abc", "한국어 안녕", "Привет, мир", "שלום עולם", "नमस्ते दु", "สวัสดี"),
    *("🙂🚀 👩\u200d👩", "e\u0301 n\u0303o", "\u200b zero\u00a0width", "https://example.com/a?b=c"),
    *("   indented", "CamelCaseAnd_snake", "HTTPServer XMLHttp iPhone", "ÉCOLE École"),
    *("....,,,;;;!!!???---", "\u007f control", "5% $6 +7=8 <9> ^~|`", "a\u3000b 、c", "end  "),
    *("x \n\n y\n", "'s 'S 'll", "a'b c'd", "_a -b (c", "Αβγ Δε", "𐐀𐐨 x"),
]  # fmt: skip


def byte_characters() -> list[str]:
    """The characters by which byte-level BPE writes each byte."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = iter(range(256, 512))
    return [chr(byte) if byte in shown else chr(next(hidden)) for byte in range(256)]


BYTES = byte_characters()


def vocabulary_of(text: str) -> tuple[list[str], list[str]]:
    """Tokens and merges by which every word of `text` becomes one token."""
    letters = "".join(BYTES[byte] for byte in text.encode())
    size = len(letters)
    runs = {letters[start:stop] for start in range(size) for stop in range(start + 1, size + 1)}
    longer = sorted((run for run in runs if len(run) > 1), key=lambda run: (len(run), run))
    return [*BYTES, *longer], [f"{run[:cut]} {run[cut:]}" for run in longer for cut in range(1, len(run))]


def write(path: Path, tokens: list[str], merges: list[str], pre: str) -> None:
    """A GGUF file with that vocabulary alone."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(tokens))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def words_by_llama_cpp(path: Path, tokens: list[str], text: str) -> list[str]:
    """The words of `text`, in the characters that stand for bytes."""
    ffi = get_ffi()
    lib = ffi.dlopen(xllamacpp.xllamacpp.__file__)
    parameters = lib.llama_model_default_params()
    parameters.vocab_only = True
    model = lib.llama_model_load_from_file(str(path).encode(), parameters)
    assert model != ffi.NULL
    encoded = text.encode()
    ids = ffi.new("llama_token[]", len(encoded) + 8)
    count = lib.llama_tokenize(
        lib.llama_model_get_vocab(model), encoded, len(encoded), ids, len(encoded) + 8, False, False
    )
    lib.llama_model_free(model)
    return [tokens[index] for index in ids[0:count]]


def main() -> None:
    """Write the file, a line for each kind and text."""
    words = {}
    with tempfile.TemporaryDirectory() as folder:
        for text in TEXTS:
            tokens, merges = vocabulary_of(text)
            for kind in KINDS:
                path = Path(folder) / "x.gguf"
                write(path, tokens, merges, kind)
                words.setdefault(kind, []).append(words_by_llama_cpp(path, tokens, text))
                assert "".join(words[kind][-1]) == "".join(BYTES[byte] for byte in text.encode())
    lines = [f" {json.dumps(kind)}: {json.dumps(of_texts, ensure_ascii=False)}" for kind, of_texts in words.items()]
    content = '{"texts": ' + json.dumps(TEXTS) + ',\n"words": {\n' + ",\n".join(lines) + "\n}}\n"
    Path(__file__).with_name("pre_tokenizers.json").write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
