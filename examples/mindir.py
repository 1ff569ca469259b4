"""Export a model, and run it from the folder alone: graph, weights, tokenizer and kernels are in it."""

import tempfile
from pathlib import Path

from mindspore_paged import LLM, SamplingParams
from mindspore_paged.config import load_config
from mindspore_paged.engine.building.exporting import export_model


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = export_model(load_config("configs/smollm2_135m.yaml"), Path(scratch) / "exported", show_progress=False)
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                print(f"{path.stat().st_size / 1e6:8.2f} MB  {path.relative_to(folder)}")
        with LLM.from_mindir(folder, show_progress=False) as llm:
            print(llm.generate("The capital of France is", SamplingParams(max_tokens=16))[0].outputs[0].text)


if __name__ == "__main__":
    main()
