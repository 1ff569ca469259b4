"""A model calls a function and answers with what it gave, by OpenAI's client and a server in another process."""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request

import openai

PORT = 8123
TOOL = {
    "type": "function",
    "function": {
        "name": "get_temperature",
        "description": "The temperature in a city, in degrees Celsius",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 30}},
            "required": ["city"],
        },
    },
}


def get_temperature(city: str) -> int:
    """The temperature there, in a world where it follows from the name."""
    return len(city) + 10


def ask(client: openai.OpenAI) -> None:
    """One turn with a call, and one with its result."""
    messages = [{"role": "user", "content": "How warm is it in Paris?"}]
    called = client.chat.completions.create(
        model="demo", messages=messages, tools=[TOOL], tool_choice="required", parallel_tool_calls=False
    )
    message = called.choices[0].message
    messages.append(message.model_dump(exclude_none=True))
    for call in message.tool_calls:
        result = get_temperature(**json.loads(call.function.arguments))
        print(f"{call.function.name}({call.function.arguments}) -> {result}")
        messages.append({"role": "tool", "tool_call_id": call.id, "content": str(result)})
    answer = client.chat.completions.create(model="demo", messages=messages, tools=[TOOL], tool_choice="none")
    print(answer.choices[0].message.content)


def main() -> None:
    command = [sys.executable, "scripts/run_server.py", "--config", "configs/smollm2_135m.yaml", "--port", str(PORT)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        wait_ready(server)
        ask(openai.OpenAI(base_url=f"http://127.0.0.1:{PORT}/v1", api_key="none"))
    finally:
        server.terminate()
        server.wait()


def wait_ready(server: subprocess.Popen) -> None:
    """Return when the server takes requests."""
    while server.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/ready"):
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)
    raise SystemExit("the server ended before it was ready")


if __name__ == "__main__":
    main()
