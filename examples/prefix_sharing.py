"""Prompts that begin alike share pages: the second batch computes the questions alone."""

from time import perf_counter

from mindspore_paged import LLM, SamplingParams

TEXT = " ".join(f"Rule {number}: a page of {16 * number} tokens is {number} blocks." for number in range(1, 41))
QUESTIONS = ("What is rule 3?", "How many blocks has rule 7?", "What is a page?")


def main() -> None:
    prompts = [f"{TEXT}\n\nQuestion: {question}\nAnswer:" for question in QUESTIONS]
    with LLM("configs/smollm2_135m.yaml", show_progress=False) as llm:
        for name in ("first", "second"):
            started = perf_counter()
            outputs = llm.generate(prompts, SamplingParams(max_tokens=8))
            cached = sum(output.num_cached_tokens for output in outputs)
            total = sum(len(output.prompt_token_ids) for output in outputs)
            print(f"{name} batch: {cached} of {total} prompt tokens were cached, {perf_counter() - started:.2f} s")


if __name__ == "__main__":
    main()
