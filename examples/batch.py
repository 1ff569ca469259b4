"""Many prompts at once, each with parameters of its own."""

from mindspore_paged import LLM, SamplingParams

PROMPTS = ("The capital of France is", "Once upon a time", "def fibonacci(n):", "The three primary colours are")


def main() -> None:
    greedy = SamplingParams(max_tokens=24)
    params = [greedy, SamplingParams(max_tokens=48, temperature=0.8, top_p=0.95, seed=1), greedy, greedy]
    with LLM("configs/smollm2_135m.yaml", show_progress=False) as llm:
        for prompt, output in zip(PROMPTS, llm.generate(PROMPTS, params), strict=True):
            print(f"{prompt!r} -> {output.outputs[0].text!r}")
        figures = llm.get_statistics()
        print(f"{figures['num_output_tokens']} tokens in {figures['num_steps']} steps")


if __name__ == "__main__":
    main()
