"""A chat that is streamed, turn by turn; the second turn finds the pages of the first."""

from mindspore_paged import LLM, SamplingParams

QUESTIONS = ("Why is the sky blue? Answer in one sentence.", "And at sunset?")


def main() -> None:
    messages = []
    with LLM("configs/smollm2_135m.yaml", show_progress=False) as llm:
        for question in QUESTIONS:
            print(f"\n> {question}")
            messages.append({"role": "user", "content": question})
            answer = ""
            for piece in llm.stream(messages, SamplingParams(max_tokens=64)):
                print(piece.text, end="", flush=True)
                answer += piece.text
            messages.append({"role": "assistant", "content": answer})
        print(f"\n\n{llm.get_statistics()['prefix_cache_hit_rate']:.0%} of the prompts' tokens were found in pages")


if __name__ == "__main__":
    main()
