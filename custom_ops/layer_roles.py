"""What the operators of `layer_ops` call the weights and the activations of a decoder layer: no MindSpore in here."""

LAYER_ROLES = (
    "attention_norm", "q", "k", "v", "o", "q_bias", "k_bias", "v_bias", "o_bias", "q_norm", "k_norm",
    "attention_output_norm",
    "mlp_norm", "gate", "up", "down", "gate_bias", "up_bias", "down_bias", "mlp_output_norm",
)  # fmt: skip
"""All weights that a decoder layer may have, in the order of DecoderStep; a layer may lack those of OPTIONAL_ROLES."""

OPTIONAL_ROLES = tuple(
    role for role in LAYER_ROLES if role.endswith(("_bias", "_output_norm")) or role in ("q_norm", "k_norm")
)

ABSENT = (-1, 0, 0, 0, 0)
"""What DecoderStep's layout says of a weight that a layer lacks."""

NO_HEAD = -1
"""The head_kind of a DecoderStep that makes no logits."""

ACTIVATIONS = ("silu", "gelu_pytorch_tanh")
"""What a feed forward layer may do to its gate: silu(a) = a / (1 + e^-a), or GELU by its tanh approximation."""

ADAPTED_ROLES = ("q", "k", "v", "o", "gate", "up", "down")
"""The matrices that adapters of low rank stand beside, in the order in which DecoderStep has those of a layer."""

RANK_STEP = 4
"""The rank of adapters as DecoderStep takes them is a multiple of it."""

PANEL_ROWS = 16
"""Rows of a weight that stand together; see cpu/linear/panels.h."""
