"""What requests hold their texts to, made where the model's tokenizer is known."""

from mindspore_paged.engine.requests.request_check import ModelLimits
from mindspore_paged.errors import RequestError
from mindspore_paged.sampling.constraint import Constraint, ConstraintCompiler
from mindspore_paged.sampling.sampling_params import SamplingParams
from mindspore_paged.tokenizer import Tokenizer


class Constraints:
    """Makes constraints; several threads may call it. tokenizer: None for a model without, which follows no form."""

    def __init__(self, tokenizer: Tokenizer | None, limits: ModelLimits):
        self._tokenizer = tokenizer
        self._limits = limits
        self._compiler: ConstraintCompiler | None = None

    def of(self, params: SamplingParams) -> Constraint | None:
        """The constraint that structured_outputs asks for, None where nothing does; raises RequestError, in one line,
        for a form that cannot be followed."""
        if params.structured_outputs is None:
            return None
        if self._tokenizer is None:
            raise RequestError("structured_outputs needs a tokenizer, and this model has none")
        if self._compiler is None:  # two threads may both make one, of which the last is kept
            backend = self._tokenizer.backend.to_str()
            self._compiler = ConstraintCompiler(backend, self._limits.vocab_size, self._limits.eos_token_ids)
        return self._compiler.constraint(params.structured_outputs)
