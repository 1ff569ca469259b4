"""The page in the system's Chromium, over a real model: it chats, stops a stream, and sees the pool change.

Chromium is not skipped where it is missing: `make browser` installs it.
"""

import hashlib
import json
import os
import shutil

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect, sync_playwright

from mindspore_paged import LLM
from mindspore_paged.serving.auth import read_api_keys
from tests.serving.running import RunningServer
from tests.tokenizer.family_templates import QWEN3

pytestmark = pytest.mark.slow
expect.set_options(timeout=20_000)  # what a loaded machine may take

KEY = "one-key-for-the-page"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SIZES = ["scheduler.max_num_seqs=8", "scheduler.max_model_len=2048", "cache.num_blocks=200"]
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
LONG = "Count from one to one thousand in words."


@pytest.fixture(scope="module")
def server(demo_model, tmp_path_factory):
    keys = tmp_path_factory.mktemp("keys") / "keys.txt"
    keys.write_text(KEY + "\n")
    llm = LLM("configs/smollm2_135m.yaml", overrides=SIZES, show_progress=False)
    with RunningServer(llm, llm.config.server, api_keys=read_api_keys(keys)) as server:
        yield server
        server.assert_idle()


@pytest.fixture(scope="module")
def browser():
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    assert path, f"no browser: none of {', '.join(NAMES)} is installed; `make browser` installs Chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])  # CI runs as root
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, server):
    """Opens the page; in the end nothing was asked of others and nothing went wrong in it."""
    problems, contexts = [], []

    def opened(viewport=DESKTOP, key=KEY):
        contexts.append(browser.new_context(viewport=viewport))
        page = contexts[-1].new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: request.url.startswith(server.url) or problems.append(request.url))
        page.on("console", lambda said: "Content Security Policy" in said.text and problems.append(said.text))
        page.goto(server.url)
        page.get_by_label("API key").wait_for()
        if key is not None:
            page.get_by_label("API key").fill(key)
            page.keyboard.press("Enter")
        if key == KEY:
            expect(page.locator("#pool-state")).to_have_attribute("data-state", "live")
            expect(page.get_by_label("Model", exact=True)).to_have_value(server.service.model_names[0])
            page.get_by_role("button", name="Settings").click()
        return page

    yield opened
    for context in contexts:
        context.close()
    assert problems == []


def say(page, text):
    page.get_by_label("Message").fill(text)
    page.keyboard.press("Enter")
    return page.locator("li.assistant").last


def never_ends(page):
    """From now on answers go on until max_tokens, whatever the model would rather do."""

    def ask(route):
        route.continue_(post_data=json.dumps({**route.request.post_data_json, "ignore_eos": True}))

    page.route("**/v1/chat/completions", ask)


def choose(page, **values):
    page.get_by_role("button", name="Settings").click()
    for label, value in values.items():
        page.get_by_label(label.replace("_", " ")).fill(value)
    page.get_by_role("button", name="Settings").click()


def picture(page) -> str:
    """A digest of the pool's picture."""
    return hashlib.sha256(page.locator("#pools canvas").screenshot()).hexdigest()


def figure(page, name):
    return page.locator(f"#figure-{name}")


def test_it_chats_as_the_api_answers(open_page, server):
    page = open_page()
    choose(page, Temperature="0", Max_tokens="8", System_prompt="Answer briefly.")
    answer = say(page, "What is the capital of France?")
    expect(answer.locator(".meta")).to_contain_text("tokens/s")
    messages = [
        {"role": "system", "content": "Answer briefly."},
        {"role": "user", "content": "What is the capital of France?"},
    ]
    client = server.client_with(api_key=KEY)
    known = client.chat.completions.create(
        model=server.service.model_names[0], messages=messages, temperature=0, max_tokens=8
    )
    expect(answer.locator(".text")).to_have_text(known.choices[0].message.content)
    expect(answer.locator(".meta")).to_contain_text(f"{known.usage.completion_tokens} tokens")
    expect(answer.locator(".meta")).to_contain_text(f"prompt {known.usage.prompt_tokens}")
    expect(page.get_by_role("status").last).to_be_attached()
    follow_up = say(page, "And of Italy?")  # the conversation goes on
    expect(follow_up.locator(".meta")).to_contain_text("cached")


def test_it_stops_a_stream_and_sees_the_pool_change(open_page, server):
    page = open_page()
    never_ends(page)
    expect(figure(page, "running")).to_have_text("0")
    choose(page, Max_tokens="1500", Seed="5")
    before = picture(page)
    answer = say(page, LONG)
    expect(figure(page, "running")).to_have_text("1")
    expect(page.locator("#requests tr")).to_have_count(1)
    expect(page.locator("#requests .yours")).to_have_text("yours")
    expect(page.locator("#pool-summary")).not_to_contain_text(" 0 of ")
    assert picture(page) != before
    page.keyboard.press("Escape")
    expect(answer.locator(".meta")).to_contain_text("stopped")
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    expect(figure(page, "running")).to_have_text("0")
    expect(page.locator("#pool-summary")).to_contain_text("0 of 199 pages held")
    server.assert_idle()
    text = answer.locator(".text").inner_text()
    page.wait_for_timeout(300)
    assert answer.locator(".text").inner_text() == text


def test_the_stop_button_and_others_at_work(open_page, server):
    page = open_page()
    never_ends(page)
    choose(page, Max_tokens="1500")
    say(page, LONG)
    other = server.client_with(api_key=KEY)
    stream = other.chat.completions.create(
        model=server.service.model_names[0],
        messages=[{"role": "user", "content": LONG}],
        max_tokens=1500,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    next(iter(stream))
    expect(figure(page, "running")).to_have_text("2")
    expect(page.locator("#requests .yours")).to_have_count(1)
    page.get_by_role("button", name="Stop").click()
    expect(figure(page, "running")).to_have_text("1")
    stream.close()
    expect(figure(page, "running")).to_have_text("0")


def test_what_anybody_writes_is_text(open_page):
    page = open_page()
    choose(page, Max_tokens="4")
    page.route("**/v1/chat/completions", lambda route: route.fulfill(content_type="text/event-stream", body=HOSTILE))
    answer = say(page, "<b>bold</b><img src=x>")
    expect(answer.locator(".text")).to_have_text("<img src=x onerror=alert(1)><script>alert(2)</script>")
    expect(page.locator("li.user .text")).to_have_text("<b>bold</b><img src=x>")
    assert page.locator("#messages img, #messages script, #messages b").count() == 0


HOSTILE = (
    'data: {"id": "x", "choices": [{"delta": {"content": "<img src=x onerror=alert(1)>"}}]}\r\n\r\n'
    'data: {"id": "x", "choices": [{"delta": {"content": "<script>alert(2)</script>"}, "finish_reason": "stop"}]}\n\n'
    "data: [DONE]\n\n"
)


def test_what_the_server_refuses_is_said_and_can_be_mended(open_page):
    page = open_page()
    choose(page, Max_tokens="0")
    answer = say(page, "Hi")
    expect(answer).to_have_class("message assistant error")
    expect(answer.locator(".text")).to_contain_text("max_tokens")
    choose(page, Max_tokens="3")
    expect(say(page, "Hi").locator(".meta")).to_contain_text("cut at max tokens")


def test_a_wrong_key_is_said_and_no_key_is_kept(open_page):
    page = open_page(key="not-this-one")
    expect(page.get_by_role("alert")).to_have_text("The server does not know this key.")
    page.get_by_label("API key").fill(KEY)
    page.keyboard.press("Enter")
    expect(page.locator("#pool-state")).to_have_text("Live")
    kept = page.evaluate(
        "[document.cookie, JSON.stringify(localStorage), JSON.stringify(sessionStorage), location.href]"
    )
    assert KEY not in "".join(kept)
    page.reload()
    expect(page.get_by_label("API key")).to_have_value("")


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_everyone_can_use_it(open_page, viewport):
    page = open_page(viewport)
    choose(page, Max_tokens="6")
    expect(say(page, "Hello").locator(".meta")).to_contain_text("prompt 31")
    page.get_by_role("button", name="Settings").click()
    assert_accessible(page)
    if viewport is PHONE:
        page.get_by_role("button", name="Pool").click()
        expect(page.locator("#pools canvas")).to_be_visible()
        assert_accessible(page)


def assert_accessible(page):
    """No rule of axe is broken, in light or dark, and nothing stands out at the side."""
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        found = Axe().run(page).response["violations"]
        assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_keys_alone_reach_every_page_of_the_pool(open_page):
    page = open_page()
    page.locator("#pools canvas").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#readout")).to_contain_text("null block")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#readout")).to_contain_text("Block 1: ")


def test_thoughts_stand_above_the_answer(browser, speaking):
    with speaking(QWEN3, "<think>\nOne and one.\n</think>\n\nTwo.") as server:
        page = browser.new_page()
        page.goto(server.url)
        expect(page.get_by_label("Model", exact=True)).to_have_value(server.service.model_names[0])
        say(page, "1 + 1?")
        answer = page.locator(".message.assistant")
        expect(answer.locator(".text")).to_have_text("Two.")
        expect(answer.locator(".thoughts")).to_have_text("One and one.")
        expect(page.locator(".message.user .thoughts")).to_be_hidden()
        page.close()
