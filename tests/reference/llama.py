"""LLaMA in NumPy and float64, written from the papers: whole sequences, plain causal attention, no cache.

Independent of the package but for the ModelConfig that says the sizes. Weights carry Hugging Face's names, matrices
are [out, in]. T tokens, H query heads, K key/value heads, D head_dim.
"""

import math

import numpy as np

from mindspore_paged.model_config import ModelConfig

BLOCK_ROWS = 1024
"""Rows of a weight matrix that are held in float64 at a time: a 70B layer in float64 would not fit in memory."""


def logits(config: ModelConfig, weights: dict[str, np.ndarray], token_ids) -> np.ndarray:
    """Logits [T, vocab_size] float64 for the token after each of `token_ids` [T]."""
    output = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
    return linear(hidden_states(config, weights, token_ids), weights[output])


def hidden_states(config: ModelConfig, weights: dict[str, np.ndarray], token_ids) -> np.ndarray:
    """Of each of `token_ids` [T] what is behind the last norm, [T, hidden_size] float64."""
    hidden = weights["model.embed_tokens.weight"][np.asarray(token_ids)].astype(np.float64)
    for index in range(config.num_hidden_layers):
        hidden = layer(config, layer_weights(weights, index), hidden)
    return rms_norm(hidden, weights["model.norm.weight"], config.rms_norm_eps)


def greedy(config: ModelConfig, weights: dict[str, np.ndarray], prompt, count: int) -> list[int]:
    """The `count` most likely tokens after `prompt`, one after the other."""
    token_ids = list(prompt)
    for _ in range(count):
        token_ids.append(int(logits(config, weights, token_ids)[-1].argmax()))
    return token_ids[len(prompt) :]


def layer(config: ModelConfig, weights: dict[str, np.ndarray], hidden: np.ndarray) -> np.ndarray:
    """One decoder layer over [T, hidden_size], with names as in `layer_weights`."""
    normed = rms_norm(hidden, weights["input_layernorm.weight"], config.rms_norm_eps)
    hidden = hidden + self_attention(config, weights, normed)
    normed = rms_norm(hidden, weights["post_attention_layernorm.weight"], config.rms_norm_eps)
    return hidden + feed_forward(weights, normed)


def layer_weights(weights: dict[str, np.ndarray], index: int) -> dict[str, np.ndarray]:
    """Weights of one layer, named from within it: `self_attn.q_proj.weight`."""
    prefix = f"model.layers.{index}."
    return {name.removeprefix(prefix): array for name, array in weights.items() if name.startswith(prefix)}


def self_attention(config: ModelConfig, weights: dict[str, np.ndarray], hidden: np.ndarray) -> np.ndarray:
    """Grouped-query attention (Ainslie et al. 2023) of each token to itself and those before it."""
    shape = (len(hidden), -1, config.head_dim)
    query = projected(hidden, weights, "self_attn.q_proj").reshape(shape)
    key = projected(hidden, weights, "self_attn.k_proj").reshape(shape)
    value = projected(hidden, weights, "self_attn.v_proj").reshape(shape)
    positions = np.arange(len(hidden))
    context = causal_attention(rotate(config, query, positions), rotate(config, key, positions), value)
    return projected(context.reshape(len(hidden), -1), weights, "self_attn.o_proj")


def causal_attention(query: np.ndarray, key: np.ndarray, value: np.ndarray) -> np.ndarray:
    """softmax(q k / sqrt(D)) v for query [T,H,D], key and value [T,K,D]; H / K query heads share a key head."""
    tokens, heads, head_dim = query.shape
    group = heads // key.shape[1]
    context = np.empty_like(query)
    for head in range(heads):
        scores = query[:, head] @ key[:, head // group].T / math.sqrt(head_dim)
        scores[np.triu_indices(tokens, 1)] = -np.inf
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        context[:, head] = weights @ value[:, head // group]
    return context


def feed_forward(weights: dict[str, np.ndarray], hidden: np.ndarray) -> np.ndarray:
    """SwiGLU (Shazeer 2020): down(silu(gate) * up)."""
    gate, up = (projected(hidden, weights, f"mlp.{name}_proj") for name in ("gate", "up"))
    return projected(gate / (1.0 + np.exp(-gate)) * up, weights, "mlp.down_proj")


def rms_norm(hidden: np.ndarray, weight: np.ndarray, epsilon: float) -> np.ndarray:
    """x / sqrt(mean(x^2) + epsilon) * weight (Zhang and Sennrich 2019)."""
    return hidden / np.sqrt((hidden**2).mean(axis=-1, keepdims=True) + epsilon) * weight.astype(np.float64)


def projected(hidden: np.ndarray, weights: dict[str, np.ndarray], name: str) -> np.ndarray:
    """The linear layer called `name`, with its bias if the weights have one."""
    product = linear(hidden, weights[f"{name}.weight"])
    bias = weights.get(f"{name}.bias")
    return product if bias is None else product + bias.astype(np.float64)


def linear(hidden: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """hidden [T, in] times weight [out, in] transposed, summed in float64 a block of rows at a time."""
    blocks = range(0, len(weight), BLOCK_ROWS)
    return np.concatenate(
        [hidden @ weight[start : start + BLOCK_ROWS].astype(np.float64).T for start in blocks], axis=1
    )


def rotate(config: ModelConfig, heads: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Rotary embedding (Su et al. 2021) of [T, heads, D]: dimension i turns together with dimension i + D/2."""
    angles = np.outer(positions, rope_frequencies(config))[:, None, :]
    first, second = np.split(heads * rope_attention_factor(config), 2, axis=-1)
    cosine, sine = np.cos(angles), np.sin(angles)
    return np.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)


def rope_frequencies(config: ModelConfig, longest: int | None = None) -> np.ndarray:
    """Radians a position for each of the D/2 pairs, stretched as `config.rope_scaling` says.

    longest: tokens that a sequence may have, by default max_position_embeddings.
    """
    return np.array([_frequency(config, pair, longest) for pair in range(config.head_dim // 2)])


def rope_attention_factor(config: ModelConfig) -> float:
    """What heads are multiplied by when they are turned."""
    scaling = config.rope_scaling
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    growth = math.log(scaling.factor)
    if scaling.type == "yarn":
        return 0.1 * growth + 1.0
    if scaling.type == "longrope":
        return math.sqrt(1.0 + growth / math.log(_old_context(config)))
    return 1.0


def _old_context(config: ModelConfig) -> int:
    given = config.rope_scaling.original_max_position_embeddings
    return given if given is not None else config.max_position_embeddings


def _frequency(config: ModelConfig, pair: int, longest: int | None) -> float:
    scaling, head_dim, base = config.rope_scaling, config.head_dim, config.rope_theta
    if scaling.type == "ntk":
        base *= scaling.factor ** (head_dim / (head_dim - 2))
    frequency = base ** (-2 * pair / head_dim) / (scaling.divisors[pair] if scaling.divisors else 1.0)
    if scaling.type == "linear":
        return frequency / scaling.factor
    if scaling.type == "llama3":
        return _llama3_frequency(frequency, scaling)
    if scaling.type == "yarn":
        return _yarn_frequency(frequency, pair, config)
    if scaling.type == "longrope":
        is_long = (config.max_position_embeddings if longest is None else longest) > _old_context(config)
        return frequency / (scaling.long_factor if is_long else scaling.short_factor)[pair]
    return frequency


def _yarn_frequency(frequency: float, pair: int, config: ModelConfig) -> float:
    """YaRN (Peng et al. 2023): a ramp over the pairs, from one that turns beta_fast times to one of beta_slow times."""
    scaling = config.rope_scaling
    per_pair = 2 * math.log(config.rope_theta) / config.head_dim  # by which the logarithm of the wavelength grows
    start = math.log(_old_context(config) / (2 * math.pi * scaling.beta_fast)) / per_pair
    end = math.log(_old_context(config) / (2 * math.pi * scaling.beta_slow)) / per_pair
    if scaling.truncate:
        start, end = math.floor(start), math.ceil(end)
    start, end = max(start, 0), min(end, config.head_dim - 1)
    stretched = min(max((pair - start) / (end - start if end != start else 0.001), 0.0), 1.0)
    return frequency * (1 - stretched) + frequency / scaling.factor * stretched


def _llama3_frequency(frequency: float, scaling) -> float:
    """Llama 3.1: waves that fit many times into the old context stay, long ones are stretched, a blend between."""
    turns = scaling.original_max_position_embeddings * frequency / (2 * math.pi)
    if turns > scaling.high_freq_factor:
        return frequency
    if turns < scaling.low_freq_factor:
        return frequency / scaling.factor
    kept = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    return kept * frequency + (1 - kept) * frequency / scaling.factor


def random_weights(config: ModelConfig, seed: int) -> dict[str, np.ndarray]:
    """A whole model in float32 whose logits have a standard deviation of about 2."""
    rng = np.random.default_rng(seed)
    size = (config.vocab_size, config.hidden_size)
    weights = {"model.embed_tokens.weight": _normal(rng, *size) * np.float32(2.0)}
    for index in range(config.num_hidden_layers):
        for name, array in random_layer_weights(config, rng).items():
            weights[f"model.layers.{index}.{name}"] = array
    weights["model.norm.weight"] = _norm_weight(rng, config.hidden_size)
    if not config.tie_word_embeddings:
        weights["lm_head.weight"] = _normal(rng, *size) * np.float32(2.0)
    return weights


def random_layer_weights(config: ModelConfig, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """One layer in float32, named from within it; every projection keeps the scale of its input."""
    hidden_size, intermediate_size = config.hidden_size, config.intermediate_size
    query_size = config.num_attention_heads * config.head_dim
    key_size = config.num_key_value_heads * config.head_dim
    layer = {
        "input_layernorm.weight": _norm_weight(rng, hidden_size),
        "self_attn.q_proj.weight": _normal(rng, query_size, hidden_size),
        "self_attn.k_proj.weight": _normal(rng, key_size, hidden_size),
        "self_attn.v_proj.weight": _normal(rng, key_size, hidden_size),
        "self_attn.o_proj.weight": _normal(rng, hidden_size, query_size),
        "post_attention_layernorm.weight": _norm_weight(rng, hidden_size),
        "mlp.gate_proj.weight": _normal(rng, intermediate_size, hidden_size),
        "mlp.up_proj.weight": _normal(rng, intermediate_size, hidden_size),
        "mlp.down_proj.weight": _normal(rng, hidden_size, intermediate_size),
    }
    for name in [name.removesuffix(".weight") for name in layer]:
        if name.split(".")[-1] in config.biases:
            layer[f"{name}.bias"] = rng.normal(scale=0.5, size=len(layer[f"{name}.weight"])).astype(np.float32)
    return layer


def _normal(rng: np.random.Generator, outputs: int, inputs: int) -> np.ndarray:
    matrix = rng.standard_normal((outputs, inputs), dtype=np.float32)
    matrix /= np.float32(math.sqrt(inputs))
    return matrix


def _norm_weight(rng: np.random.Generator, size: int) -> np.ndarray:
    return (1.0 + 0.1 * rng.standard_normal(size)).astype(np.float32)
