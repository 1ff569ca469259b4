"""Chat templates: programs of others, compiled and run for some conversations."""

from pathlib import Path
from random import Random
from typing import Any

from mindspore_paged.tokenizer.chat_template import ChatTemplate
from tests.fuzz.gguf_samples import TEMPLATE
from tests.fuzz.havoc import havoc_of
from tests.fuzz.json_values import mutated_text
from tests.fuzz.mutant import EVERYTHING, FileFormat, Files, Mutant

FILE = "chat_template.jinja"
CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou help.<|im_end|>\\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start|>' + message['role'] + "
    "'<|end|>\\n' + message['content'] | trim + '<|eot|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}"
    "{% endif %}{{ content }}{% endfor %}{% if tools is not none %}{{ tools | tojson(indent=2) }}{% endif %}"
)
_SAMPLES = [{FILE: text.encode()} for text in (TEMPLATE, CHATML, LLAMA3)]
ATTACKS = (
    *(
        "{{ range(10**12) | list }}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{{ 'a' * 10**10 }}",
        "{{ [0] * 10**10 }}",
    ),
    *("{{ 10 ** 10 ** 8 }}", "{{ 2 ** 2 ** 40 }}", "{{ (10 ** 5000) | string }}", "{{ 'a' | center(10**10) }}"),
    *(
        "{{ '%10000000000d' % 1 }}",
        "{{ '{:>10000000000}'.format(1) }}",
        "{{ 'a'.ljust(10**10) }}",
        "{{ 'a'.zfill(10**10) }}",
    ),
    *("{{ 'a' | indent(10**10) }}", "{{ messages | tojson(indent=10**10) }}", "{{ 'ab' | replace('', 'x' * 10**6) }}"),
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{{ 'a' * 99999 }}{% endfor %}",
    "{% set x = 'a' * 1000 %}" + "{% set x = x * 1000 %}" * 9 + "{{ x }}",
    "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x | length }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('true') }}",
    "{{ self.__init__.__globals__ }}",
    "{{ raise_exception('no') }}",
    "{{ raise_exception(messages) }}",
    "{{ raise_exception('a\\nb' * 9999) }}",
    "{{ strftime_now('%Y') | length }}",
    "{{ strftime_now(5) }}",
    "{{ strftime_now('%' * 10**6) }}",
    "{{ strftime_now('\ud800') }}",
    "{{ messages[99]['content'] }}",
    "{{ messages.x.y.z }}",
    "{{ 1 / 0 }}",
    "{{ 1 % 0 }}",
    "{{ {} < [] }}",
    "{{ none + 1 }}",
    "{{ [] | first }}",
    "{{ [] | max + 1 }}",
    "{{ 'a' | int(base=99) }}",
    "{{ 'x' | batch(0) | list }}",
    "{{ 'x' | slice(0) | list }}",
    "{{ messages | sort }}",
    "{{ messages | groupby('role') | list }}",
    "{{ messages | map('nothing') | list }}",
    "{{ messages | sum }}",
    "{{ messages | tojson(separators=5) }}",
    "{{ messages | tojson(indent='x') }}",
    "{{ lipsum | tojson }}",
    "{{ lipsum(n=10**7) }}",
    "{{ (range(10) | batch(3)) | tojson }}",
    "{{ '\\ud800' }}",
    "{{ '\\x00' }}",
    "{{ '{0.__class__}'.format(1) }}",
    "{{ 'a'.encode('idna') }}",
    "{{ 'a'.encode('nothing') }}",
    "{{ ('a' * 99999).split('') }}",
    "{% include 'x' %}",
    "{% import 'x' as y %}",
    "{% extends 'x' %}",
    "{% break %}",
    "{% generation %}a",
    "{% endfor %}",
    "{% set x %}a{% endset %}{{ x }}",
    "{% call m() %}{% endcall %}",
    "{% filter upper %}a{% endfilter %}",
    "{% block a %}{% block a %}{% endblock %}{% endblock %}",
    "{% for a in messages recursive %}{{ loop(messages) }}{% endfor %}",
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "{{ " + "1 + " * 20_000 + "1 }}",
    "{{ " + "not " * 5000 + "1 }}",
    "{% if 1 %}" * 200 + "{% endif %}" * 200,
    "{% for i in [1] %}" * 50 + "{% endfor %}" * 50,
    "{{ a" + ".b" * 20_000 + " }}",
    "{{ a" + "|trim" * 5000 + " }}",
    "{# " + "x" * 100_000,
    "{{ 1" + "0" * 5000 + " }}",
    "{{ 1e999 }}",
    "{{ '" + "\\" * 99_999 + "' }}",
    "{{ debug() }}",
    "{{ joiner().__call__() }}",
    "{{ namespace(**{'a': 1}).a }}",
    "{{ dict(a=dict)['a']() }}",
    "{{ messages.append(1) }}",
    "{{ messages.__setitem__(0, 1) }}",
    "{{ '%s' % messages }}",
    "{{ '%(a)s' % messages[0] }}",
    "{{ 'x' | attr('__class__') }}",
    "{{ 'x' | xmlattr }}",
    "{{ {1: 2} | xmlattr }}",
    "{{ 'https://a b' * 1000 | urlize }}",
    "{{ ('<' * 99999) | striptags }}",
    "{{ ('a ' * 99999) | wordwrap(1) | length }}",
    "{{ ('a' * 9999) | wordwrap(-1) }}",
    "{{ ('<!--' * 30000) | striptags | length }}",
    "{{ [1, 2] | random }}",
    "{{ 99 | filesizeformat }}",
    "{{ messages | pprint }}",
)
CONVERSATIONS = (
    [{"role": "user", "content": "a"}],
    [{"role": "system", "content": "b"}, {"role": "user", "content": " a\n"}, {"role": "assistant", "content": ""}],
)


def attacks(files: Files, random: Random) -> Mutant:
    """Expressions and statements that want time, memory, secrets, or what there is not."""
    source = files[FILE].decode()
    chosen = "".join(random.choices(ATTACKS, k=random.choice((1, 1, 2))))
    at = random.choice(
        (0, len(source), random.randrange(len(source)), source.find("{{ content"), source.find("{% endfor"))
    )
    text = random.choice((chosen, source[:at] + chosen + source[at:]))
    return Mutant({FILE: text.encode("utf-8", "surrogatepass")}, chosen[:100])


def text(files: Files, random: Random) -> Mutant:
    """Letters, and pieces of the program moved."""
    source = files[FILE].decode()
    for _ in range(random.choice((1, 1, 3))):
        if random.random() < 0.5:
            source = mutated_text(source, random)
        else:
            words = source.split(" ")
            words[random.randrange(len(words))] = random.choice(
                (*words, "}}", "{{", "%}", "{%", "{#", "if", "in", "|", "-1")
            )
            source = " ".join(words)
    return Mutant({FILE: source.encode("utf-8", "surrogatepass")}, "letters and words")


def harmless(files: Files, random: Random) -> Mutant:
    """What adds nothing to the prompt."""
    piece = random.choice(("{# a #}", "{%- set x = 5 -%}", "{% if false %}{{ 1 / 0 }}{% endif %}", "{{ '' }}"))
    return Mutant({FILE: piece.encode() + files[FILE]}, piece, EVERYTHING)


def use(folder: Path) -> dict[str, Any]:
    """Compile the template and render some conversations; one that it refuses is refused in one line."""
    source = (folder / FILE).read_bytes().decode("utf-8", "replace")
    template = ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"})
    return {"prompts": [_rendered(template, messages) for messages in CONVERSATIONS]}


def _rendered(template: ChatTemplate, messages: list) -> str:
    return template.render(messages, True)


FORMATS = (
    FileFormat("chat_template", _SAMPLES, (*[attacks] * 4, text, text, harmless, havoc_of()), use, names_file=False),
)
