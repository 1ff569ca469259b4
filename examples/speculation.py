"""The same text in fewer steps: guesses from what was written before, of which those are kept that prove right."""

from mindspore_paged import LLM, SamplingParams

TEXT = "Teh quick brown fox jumps over teh lazy dog. Teh dog sleeps, and teh fox runs away into teh forest."


def main() -> None:
    question = [{"role": "user", "content": f"Repeat this text word for word:\n{TEXT}"}]
    answers = set()
    for num_guesses in (0, 4):
        overrides = [f"scheduler.num_speculative_tokens={num_guesses}"]
        with LLM("configs/smollm2_135m.yaml", overrides=overrides, show_progress=False) as llm:
            answers.add(llm.chat(question, SamplingParams(max_tokens=64)).outputs[0].text)
            figures = llm.get_statistics()
            print(
                f"{num_guesses} guesses a step: {figures['num_output_tokens']} tokens in {figures['num_steps']} steps"
            )
    assert len(answers) == 1
    print(answers.pop())


if __name__ == "__main__":
    main()
