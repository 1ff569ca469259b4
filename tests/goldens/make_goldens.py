"""Make smollm2_135m.json: what Hugging Face transformers computes from the demo model's GGUF file in float32.

Run in an environment of its own, which needs neither MindSpore nor this package:
    pip install torch==2.13.0 transformers==4.57.1 accelerate gguf==0.19.0 'numpy<2' sentencepiece
    python tests/goldens/make_goldens.py path/to/SmolLM2-135M-Instruct.Q4_1.gguf

Text is encoded with the pipeline of SmolLM2's published tokenizer.json (digits apart, then GPT-2's byte-level BPE) over
the vocabulary in the file: transformers' own conversion of GGUF tokenizers keeps digits together and adds a BOS, both
against the file's flags.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFReader
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

NEW_TOKENS = 48
CONTROL = 3
LONG_PROMPT = """The lighthouse at the end of the northern pier was built in 1887, after three ships had been lost on \
the reef in a single winter. Its keeper, a quiet man called Anselm, kept a diary in which he wrote \
down the weather, the state of the lamp, and the names of the ships that passed. On clear nights he \
could count forty lights on the water. On foggy nights he rang the bell every two minutes, by hand, \
until the morning came.

In the spring of 1903 a company from the capital offered to replace the oil lamp with an electric \
one. Anselm was against it. He said that a lamp which nobody has to tend is a lamp which nobody \
watches, and that one day the current would fail when it was needed most. The company sent an \
engineer, a young woman called Ingrid, to persuade him. She stayed for a week. She measured the \
tower, drew plans, and listened to the old man's stories in the evenings. When she left she had \
changed her plans: the new lamp would be electric, but the old one would stay beside it, filled and \
trimmed, and the keeper would stay too.

Seven years later, during the worst storm that anyone on the coast could remember, the power station \
was flooded and the town went dark. Every light along the shore went out, except one. The captain of \
a mail boat, with sixty people on board, later told the newspaper what he had seen from the bridge \
that night:"""
PROMPTS = {
    "capital": "The capital of France is",
    "code": 'def fibonacci(n: int) -> int:\n    """Return the n-th Fibonacci number."""\n',
    "numbers": "In 2024, 17 + 25 = 42 and 3.14159 * 2 =",
    "unicode": "Le café déjà vu 🙂 costs 12 €, and naïve Zoë",
    "long": LONG_PROMPT,
}
CHAT = [{"role": "user", "content": "Name three primary colours, and say where rainbows come from."}]
TOKENIZER_TEXTS = [
    "", " ", "  ", "\n", "\n\n", "\t\tx", " a", "a ", "a  b   c", "Hello, world!", "hello\nworld\r\n\r\nagain  \n  x",
    "I'm you're we'll they'd it's I'VE", "1234567890", "3.14159, 1,000,000 and 0x1F", "x1y22z333", "²³ ½ Ⅷ ٣٤",
    "for i in range(10):\n\tprint(f'{i:>4}')\n", "if (a && b || !c) { return a->x[0]; } // ok",
    "naïve café Zoë — “quoted” … £€¥", "你好，世界！今天是2024年。", "こんにちは 世界",
    "Привет, мир", "שלום עולם", "नमस्ते दुनिया",
    "🙂🚀👩‍👩‍👧‍👦 é é", "\u200b zero\u00a0width", "https://example.com/a?b=c&d=%20#e",
    "<|im_start|>user\nHi<|im_end|>\n", "a<|endoftext|>b", "<|im_start|><|im_end|>", "not <|special|> at all",
    "              indented", "CamelCaseAndsnake_case_names", "....,,,;;;!!!???---===", "\x00\x7f control",
]  # fmt: skip


def reference_tokenizer(reader: GGUFReader) -> PreTrainedTokenizerFast:
    """SmolLM2's published tokenizer over the vocabulary and the merges in the file."""
    value = {key: field.contents() for key, field in reader.fields.items() if key.startswith("tokenizer.")}
    tokens = value["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in value["tokenizer.ggml.merges"]]
    backend = Tokenizer(BPE({token: index for index, token in enumerate(tokens)}, merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    types = value["tokenizer.ggml.token_type"]
    backend.add_special_tokens([token for token, kind in zip(tokens, types, strict=True) if kind == CONTROL])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=tokens[value["tokenizer.ggml.bos_token_id"]],
        eos_token=tokens[value["tokenizer.ggml.eos_token_id"]],
        chat_template=value["tokenizer.chat_template"],
        clean_up_tokenization_spaces=False,
    )


@torch.no_grad()
def greedy(model, prompt_ids: list[int]) -> tuple[list[int], np.ndarray, float]:
    """The greedy continuation (end of sequence ignored), the prompt's last logits, the smallest lead of a winner."""
    ids, cache, chosen, smallest_gap, prompt_logits = torch.tensor([prompt_ids]), None, [], np.inf, None
    for _ in range(NEW_TOKENS):
        output = model(ids, past_key_values=cache, use_cache=True)
        cache, logits = output.past_key_values, output.logits[0, -1]
        prompt_logits = logits.numpy() if prompt_logits is None else prompt_logits
        first, second = torch.topk(logits, 2).values.tolist()
        smallest_gap = min(smallest_gap, first - second)
        chosen.append(int(logits.argmax()))
        ids = torch.tensor([chosen[-1:]])
    return chosen, prompt_logits, smallest_gap


def describe(logits: np.ndarray) -> dict:
    """A small fingerprint of one row of logits: a fixed random sample, the ten largest, the mean and the norm."""
    sample = np.sort(np.random.default_rng(0).choice(len(logits), 64, replace=False))
    largest = np.argsort(-logits)[:10]
    exact = logits.astype(np.float64)
    return {
        "indices": sample.tolist(),
        "values": [round(float(value), 6) for value in logits[sample]],
        "top_ids": largest.tolist(),
        "top_values": [round(float(value), 6) for value in logits[largest]],
        "mean": round(float(exact.mean()), 6),
        "l2_norm": round(float(np.linalg.norm(exact)), 4),
    }


def main():
    """Write the goldens beside this script."""
    path = Path(sys.argv[1])
    tokenizer = reference_tokenizer(GGUFReader(path))
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    cases = [
        {"name": name, "prompt": text, "prompt_token_ids": tokenizer.encode(text)} for name, text in PROMPTS.items()
    ]
    rendered = tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    chat_ids = tokenizer.encode(rendered, add_special_tokens=False)
    cases.append({"name": "chat", "messages": CHAT, "rendered": rendered, "prompt_token_ids": chat_ids})
    for case in cases:
        token_ids, logits, gap = greedy(model, case["prompt_token_ids"])
        case["token_ids"], case["text"] = token_ids, tokenizer.decode(token_ids, skip_special_tokens=True)
        case["last_logits"], case["smallest_gap"] = describe(logits), round(gap, 6)
        print(f"{case['name']}: {len(case['prompt_token_ids'])} tokens, gap {gap:.4f}, {case['text'][:80]!r}")
    encoded = [
        {
            "text": text,
            "ids": ids,
            "decoded": tokenizer.decode(ids, skip_special_tokens=False),
            "decoded_without_special": tokenizer.decode(ids, skip_special_tokens=True),
        }
        for text in TOKENIZER_TEXTS
        for ids in [tokenizer.encode(text)]
    ]
    goldens = {
        "model": path.name,
        "made_with": f"transformers 4.57.1, torch {torch.__version__}, float32, eager attention",
        "cases": cases,
        "tokenizer": encoded,
    }
    target = Path(__file__).with_name("smollm2_135m.json")
    target.write_text(json.dumps(goldens, ensure_ascii=True, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
