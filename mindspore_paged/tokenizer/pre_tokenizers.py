"""How text is cut into words before BPE, by the names that `tokenizer.ggml.pre` gives the ways."""

from dataclasses import dataclass

from tokenizers import Regex, pre_tokenizers

_GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_ENGLISH_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_NEITHER_END_NOR_WORD = r"[^\r\n\p{L}\p{N}]"
_CAPITALS, _SMALL = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def _words(digits: str, endings: str = _ENGLISH_ENDINGS) -> str:
    """Llama 3's words and their kin, with so many digits together."""
    return rf"{endings}|{_NEITHER_END_NOR_WORD}?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"


def _words_by_case(digits: str, ending: str = "") -> str:
    """Words that end before a capital, as in GPT-4o."""
    start = f"{_NEITHER_END_NOR_WORD}?"
    return (
        rf"{start}{_CAPITALS}*{_SMALL}+{ending}|{start}{_CAPITALS}+{_SMALL}*{ending}|{digits}"
        rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
    )


_DEEPSEEK_LETTERS = (
    "\\s?[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373"
    "\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f"
    "\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d"
    "\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4"
    "\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
    "\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d"
    "\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a"
    "\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2"
    "\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943]+"
)


@dataclass(frozen=True)
class PreTokenizer:
    """One way of cutting text into words, and what else the name of the way says.

    cuts: regular expressions; each takes its matches out of the pieces that the ones before left.
    composes: letters and the marks behind them become one character first, where Unicode has one (NFC).
    takes_whole_words: a word that is a token becomes that token, whether merges make it or not.
    starts_with_bos: unless a file says otherwise, encoded text begins with BOS.
    """

    cuts: tuple[str, ...]
    composes: bool = False
    takes_whole_words: bool = False
    starts_with_bos: bool = False

    def build(self) -> pre_tokenizers.PreTokenizer:
        """The pre-tokenizer; the words that it gives are spelt in the characters that stand for bytes."""
        splits = [pre_tokenizers.Split(Regex(cut), behavior="isolated") for cut in self.cuts]
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return pre_tokenizers.Sequence([*splits, to_bytes])


_GPT2 = PreTokenizer((_GPT2_WORDS,))
_DIGIT_BY_DIGIT = PreTokenizer((r"\p{N}", _GPT2_WORDS))
_ONE_DIGIT = PreTokenizer((_words(r"\p{N}"),))
_QWEN2 = PreTokenizer(_ONE_DIGIT.cuts, composes=True)
_THREE_DIGITS = PreTokenizer((_words(r"\p{N}{1,3}"),))
_LLAMA3 = PreTokenizer(_THREE_DIGITS.cuts, takes_whole_words=True, starts_with_bos=True)
_TEKKEN = PreTokenizer((_words_by_case(r"\p{N}"),), takes_whole_words=True, starts_with_bos=True)
_GPT4O = PreTokenizer((_words_by_case(r"\p{N}{1,3}", f"{_ENGLISH_ENDINGS}?"),))
_DEEPSEEK_LLM = PreTokenizer(
    (
        r"[\r\n]",
        _DEEPSEEK_LETTERS,
        "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
        r"\s+$",
        "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+",
        r"\p{N}+",
    )
)
_DEEPSEEK_CODER = PreTokenizer(
    (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+", r"\p{N}")
)
_DEEPSEEK_V3 = PreTokenizer(
    (
        r"\p{N}{1,3}",
        "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
        r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
        rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}",
    )
)
_FALCON = PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2_WORDS, r"[0-9][0-9][0-9]"))
_SEED_CODER = PreTokenizer(
    (rf"{_ENGLISH_ENDINGS}|{_NEITHER_END_NOR_WORD}?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}",)
)
_DEFAULT = PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2_WORDS, r"\p{N}+", r"[0-9][0-9][0-9]"))

PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    "default": _DEFAULT,
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "exaone4", "mellum", "gigachat"), _GPT2),
    **dict.fromkeys(
        ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), _DIGIT_BY_DIGIT
    ),
    **dict.fromkeys(
        ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"), _LLAMA3
    ),
    **dict.fromkeys(("smaug-bpe", "dbrx", "glm4", "chatglm-bpe"), _THREE_DIGITS),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), _QWEN2),
    **dict.fromkeys(("megrez", "kormo", "stablelm2", "hunyuan", "grok-2", "solar-open"), _ONE_DIGIT),
    "tekken": _TEKKEN,
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2"), _GPT4O),
    "deepseek-llm": _DEEPSEEK_LLM,
    "deepseek-coder": _DEEPSEEK_CODER,
    **dict.fromkeys(("deepseek-v3", "hunyuan-dense"), _DEEPSEEK_V3),
    "falcon": _FALCON,
    "seed-coder": _SEED_CODER,
}
"""What llama.cpp knows and files name; as there (llama-vocab.cpp), several names may mean one way.

Unlike there, text is composed where the family's own tokenizer does it.
"""
