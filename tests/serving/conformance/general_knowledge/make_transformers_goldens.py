"""Make transformers.json: what lm-eval finds with the demo model in Hugging Face transformers, float32.

Run in an environment of its own, from the repository's top:
    pip install torch==2.13.0 transformers==4.57.1 gguf==0.19.0 sentencepiece 'lm_eval[hf]==0.4.13' 'datasets<4.5'
    PYTHONPATH=. python tests/serving/conformance/general_knowledge/make_transformers_goldens.py \\
        path/to/SmolLM2-135M-Instruct.Q4_1.gguf
"""

import json
import sys
from pathlib import Path

import lm_eval
import torch
import transformers
from gguf import GGUFReader
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from tests.goldens.make_goldens import reference_tokenizer

HERE = Path(__file__).parent
TASK = "general_knowledge"


def main():
    """Write the goldens beside this script."""
    path = Path(sys.argv[1])
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    scored = lm_eval.simple_evaluate(
        HFLM(pretrained=model, tokenizer=reference_tokenizer(GGUFReader(path)), batch_size=1),
        tasks=[TASK],
        task_manager=TaskManager(include_path=str(HERE), include_defaults=False),
        bootstrap_iters=0,
    )
    samples = sorted(scored["samples"][TASK], key=lambda sample: sample["doc_id"])
    versions = f"lm_eval {lm_eval.__version__}, transformers {transformers.__version__}"
    goldens = {
        "model": path.name,
        "made_with": f"{versions}, float32, eager attention",
        **{metric: scored["results"][TASK][f"{metric},none"] for metric in ("acc", "acc_norm")},
        "loglikelihoods": [
            [round(float(loglikelihood), 4) for loglikelihood, _ in sample["filtered_resps"]] for sample in samples
        ],
    }
    text = json.dumps(goldens).replace("[[", "[\n [").replace("], [", "],\n [")
    (HERE / "transformers.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
