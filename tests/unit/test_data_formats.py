"""Rows of every format become the same conversations, and a row that is none is refused with its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launcher import plugins
from launcher.data import read
from launcher.errors import LaunchError
from launcher.recipe.schema import Data

PACKAGES = Path(__file__).resolve().parent.parent / "packages"
HELLO = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
BE_KIND = {"role": "system", "content": "Be kind."}
EARLIER = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Me"}]
WEATHER = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}
TOOL = {"type": "function", "function": {"name": "weather", "description": "Of a city", "parameters": {}}}
CALLED = [
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "", "tool_calls": [WEATHER]},
    {"role": "tool", "content": "sunny"},
    {"role": "assistant", "content": "It is sunny"},
]
WRITTEN_CALL = '{"name": "weather", "arguments": {"city": "Rome"}}'


def says(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    return list(messages)


def conversations(tmp_path: Path, rows: list[Any], **data: Any) -> list[Any]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    made = read.read(Data.model_validate_json(json.dumps({"path": str(path), "eval": None, **data})), _no_hub)
    return [json.loads(text) for text in made.splits["train"]]


def _no_hub(source: Any) -> Any:
    raise AssertionError(f"{source} is here")


def turns(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"from": tag, "value": text} for tag, text in pairs]


READ: dict[str, tuple[Any, list[dict[str, Any]]]] = {
    "messages": ({"messages": HELLO}, HELLO),
    "messages with a system message": ({"messages": [BE_KIND, *HELLO]}, [BE_KIND, *HELLO]),
    "messages and a column with the system message": ({"messages": HELLO, "system": "Be kind."}, [BE_KIND, *HELLO]),
    "developer is system": ({"messages": [{"role": "developer", "content": "Be kind."}, *HELLO]}, [BE_KIND, *HELLO]),
    "messages as JSON, as CSV has them": ({"messages": json.dumps(HELLO)}, HELLO),
    "messages each as JSON, as datasets writes unlike ones": ({"messages": [json.dumps(one) for one in HELLO]}, HELLO),
    "messages under the other name": ({"conversations": HELLO}, HELLO),
    "messages beside columns of other formats": ({"prompt": "Hello", "text": "x", "messages": HELLO}, HELLO),
    "content in parts": (
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]},
                HELLO[1],
            ]
        },
        HELLO,
    ),
    "LLaMA-Factory's parts": (
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "value": "Hello"}], "loss_weight": 0.0},
                {
                    "role": "assistant",
                    "content": [{"type": "reasoning", "value": "Ask."}, {"type": "tool_call", "value": WRITTEN_CALL}],
                    "loss_weight": 1.0,
                },
                {"role": "tool", "content": [{"type": "text", "value": "sunny"}]},
                CALLED[3],
            ]
        },
        [{**HELLO[0], "train": False}, {**CALLED[1], "reasoning_content": "Ask."}, *CALLED[2:]],
    ),
    "OpenAI's calls, with arguments as JSON": (
        {
            "messages": [
                HELLO[0],
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {
                            "id": "c1",
                            "type": "function",
                            "function": {"name": "weather", "arguments": '{"city": "Rome"}'},
                        }
                    ],
                },
                {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
                CALLED[3],
            ]
        },
        [
            HELLO[0],
            {"role": "assistant", "content": "", "tool_calls": [{**WEATHER, "id": "c1"}]},
            {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
            CALLED[3],
        ],
    ),
    "calls with arguments as an object": ({"messages": CALLED}, CALLED),
    "OpenAI's older call": (
        {
            "messages": [
                HELLO[0],
                {
                    "role": "assistant",
                    "content": None,
                    "function_call": {"name": "weather", "arguments": '{"city": "Rome"}'},
                },
                {"role": "function", "name": "weather", "content": "sunny"},
                CALLED[3],
            ]
        },
        [CALLED[0], CALLED[1], {"role": "tool", "name": "weather", "content": "sunny"}, CALLED[3]],
    ),
    "ms-swift's calls, two of one answer": (
        {
            "messages": [
                HELLO[0],
                {"role": "tool_call", "content": WRITTEN_CALL},
                {"role": "tool_call", "content": WRITTEN_CALL},
                {"role": "tool_response", "content": "sunny"},
                CALLED[3],
            ]
        },
        [CALLED[0], {"role": "assistant", "content": "", "tool_calls": [WEATHER, WEATHER]}, *CALLED[2:]],
    ),
    "what a tool answers may be an object": (
        {"messages": [*CALLED[:2], {"role": "tool", "content": {"sky": "blau"}}, CALLED[3]]},
        [*CALLED[:2], {"role": "tool", "content": '{"sky": "blau"}'}, CALLED[3]],
    ),
    "train: false": (
        {"messages": [HELLO[0], {**HELLO[1], "train": False}]},
        [HELLO[0], {**HELLO[1], "train": False}],
    ),
    "train: true is as without": ({"messages": [HELLO[0], {**HELLO[1], "train": True}]}, HELLO),
    "ms-swift's loss": (
        {"messages": [HELLO[0], {**HELLO[1], "loss": False}]},
        [HELLO[0], {**HELLO[1], "train": False}],
    ),
    "OpenAI's weight": (
        {"messages": [HELLO[0], {**HELLO[1], "weight": 0}, *EARLIER]},
        [HELLO[0], {**HELLO[1], "train": False}, *EARLIER],
    ),
    "keys that templates know stay": (
        {"messages": [HELLO[0], {**HELLO[1], "reasoning_content": "They greet me.", "name": None}]},
        [HELLO[0], {**HELLO[1], "reasoning_content": "They greet me."}],
    ),
    "sharegpt": ({"conversations": turns(("human", "Hello"), ("gpt", "Hi"))}, HELLO),
    "sharegpt with a system turn": (
        {"conversations": turns(("system", "Be kind."), ("human", "Hello"), ("gpt", "Hi"))},
        [BE_KIND, *HELLO],
    ),
    "sharegpt with a system column": (
        {"system": "Be kind.", "conversations": turns(("human", "Hello"), ("gpt", "Hi"))},
        [BE_KIND, *HELLO],
    ),
    "sharegpt that an answer begins": (
        {"conversations": turns(("gpt", "Me"), ("human", "Hello"), ("gpt", "Hi"))},
        [EARLIER[1], *HELLO],
    ),
    "sharegpt with a call": (
        {
            "conversations": turns(
                ("human", "Hello"), ("function_call", WRITTEN_CALL), ("observation", "sunny"), ("gpt", "It is sunny")
            )
        },
        CALLED,
    ),
    "sharegpt under the other name": ({"messages": turns(("human", "Hello"), ("gpt", "Hi"))}, HELLO),
    "ms-swift's pairs": (
        {
            "system": "Be kind.",
            "conversation": [{"human": "Who?", "assistant": "Me"}, {"human": "Hello", "assistant": "Hi"}],
        },
        [BE_KIND, *EARLIER, *HELLO],
    ),
    "alpaca": ({"instruction": "Hello", "input": "", "output": "Hi"}, HELLO),
    "alpaca without input": ({"instruction": "Hello", "output": "Hi"}, HELLO),
    "alpaca with input": (
        {"instruction": "Translate", "input": "Hello", "output": "Hi"},
        [{"role": "user", "content": "Translate\nHello"}, HELLO[1]],
    ),
    "alpaca with input alone": ({"instruction": "", "input": "Hello", "output": "Hi"}, HELLO),
    "alpaca with history and system": (
        {"instruction": "Hello", "input": None, "output": "Hi", "system": "Be kind.", "history": [["Who?", "Me"]]},
        [BE_KIND, *EARLIER, *HELLO],
    ),
    "history as JSON": ({"instruction": "Hello", "output": "Hi", "history": '[["Who?", "Me"]]'}, [*EARLIER, *HELLO]),
    "Dolly's": (
        {"instruction": "Translate", "context": "Hello", "response": "Hi", "category": "x"},
        [{"role": "user", "content": "Translate\nHello"}, HELLO[1]],
    ),
    "OpenOrca's": ({"system_prompt": "Be kind.", "question": "Hello", "response": "Hi"}, [BE_KIND, *HELLO]),
    "prompt and completion": ({"prompt": "Hello", "completion": "Hi"}, HELLO),
    "prompt and completion of messages": ({"prompt": [HELLO[0]], "completion": [HELLO[1]]}, HELLO),
    "only the completion is trained": (
        {"prompt": [*EARLIER, HELLO[0]], "completion": [HELLO[1]]},
        [EARLIER[0], {**EARLIER[1], "train": False}, *HELLO],
    ),
    "query and response": ({"query": "Hello", "response": "Hi"}, HELLO),
    "query and response with history": (
        {"system": "Be kind.", "query": "Hello", "response": "Hi", "history": [["Who?", "Me"]]},
        [BE_KIND, *EARLIER, *HELLO],
    ),
    "prompt and response": ({"prompt": "Hello", "response": "Hi"}, HELLO),
    "question and answer": ({"question": "Hello", "answer": "Hi", "id": 3}, HELLO),
    "input and output": ({"input": "Hello", "output": "Hi"}, HELLO),
    "columns that hold no media": ({"messages": HELLO, "images": []}, HELLO),
}


@pytest.mark.parametrize(("row", "expected"), READ.values(), ids=READ)
def test_a_row_is_recognised(tmp_path, row, expected):
    """Whatever its format, it becomes messages of system, user, assistant and tool."""
    assert [{"messages": expected}] == conversations(tmp_path, [row])


@pytest.mark.parametrize("tools", [[TOOL], [TOOL["function"]], json.dumps([TOOL["function"]]), TOOL])
def test_tools_stand_beside_the_messages(tmp_path, tools):
    """A list, its JSON, or one tool; as functions, which is what templates take."""
    rows = [
        {"messages": CALLED, "tools": tools},
        {"conversations": turns(("human", "Hello"), ("gpt", "Hi")), "tools": tools},
    ]
    assert [{"messages": CALLED, "tools": [TOOL]}] == conversations(tmp_path, rows[:1])
    assert [{"messages": HELLO, "tools": [TOOL]}] == conversations(tmp_path, rows[1:])


def test_plain_text_is_a_text(tmp_path):
    """For continued pretraining; the column may have another name."""
    assert [{"text": "Once"}] == conversations(tmp_path, [{"text": "Once"}])
    assert [{"text": "Once"}] == conversations(tmp_path, [{"body": "Once"}], text="body")
    assert [{"text": "Once"}] == conversations(tmp_path, [{"body": "Once", "text": ""}], columns={"text": "body"})


NAMED: dict[str, tuple[Any, dict[str, Any]]] = {
    "the column of messages": ({"chat": HELLO}, {"columns": {"messages": "chat"}}),
    "keys and speakers": (
        {"chat": [{"who": "customer", "says": "Hello"}, {"who": "agent", "says": "Hi"}]},
        {"columns": {"messages": "chat", "role": "who", "content": "says", "user": "customer", "assistant": "agent"}},
    ),
    "speakers of sharegpt": (
        {"conversations": turns(("Q", "Hello"), ("A", "Hi"))},
        {"columns": {"user": "Q", "assistant": "A"}},
    ),
    "alpaca": (
        {"task": "Hello", "reply": "Hi"},
        {"format": "alpaca", "columns": {"instruction": "task", "output": "reply"}},
    ),
    "query and response": ({"q": "Hello", "a": "Hi"}, {"columns": {"query": "q", "response": "a"}}),
    "the answer alone": ({"prompt": "Hello", "label": "Hi"}, {"columns": {"prompt": "prompt", "completion": "label"}}),
    "a format that is not the first to fit": (
        {"instruction": "no", "output": "no", "query": "Hello", "response": "Hi"},
        {"format": "query-response"},
    ),
    "a prompt of columns": ({"a": "Hel", "b": "lo", "response": "Hi"}, {"prompt": "{a}{b}"}),
    "a prompt beside a question": (
        {"question": "Hello there", "short": "Hello", "answer": "Hi"},
        {"prompt": "{short}"},
    ),
}


@pytest.mark.parametrize(("row", "data"), NAMED.values(), ids=NAMED)
def test_the_recipe_names_columns(tmp_path, row, data):
    """Of a column, of a message's keys, and of its speakers; and `prompt` makes the user's message of columns."""
    assert [{"messages": HELLO}] == conversations(tmp_path, [row], **data)


def test_a_prompt_keeps_other_braces(tmp_path):
    """JSON in it is no column."""
    row = {"question": "Hello", "answer": "Hi"}
    made = conversations(tmp_path, [row], prompt='{"ask": "{question}", "n": {}}')
    assert '{"ask": "Hello", "n": {}}' == made[0]["messages"][0]["content"]


def test_the_recipes_system_message_is_for_rows_without(tmp_path):
    """A row's own stays."""
    rows = [{"messages": HELLO}, {"messages": [{"role": "system", "content": "Mine."}, *HELLO]}]
    made = conversations(tmp_path, rows, system="Be kind.")
    assert ["Be kind.", "Mine."] == [one["messages"][0]["content"] for one in made]


def test_an_own_key_says_what_is_trained(tmp_path):
    """As axolotl's message_field_training does."""
    row = {"messages": [HELLO[0], {**HELLO[1], "learn": False}]}
    made = conversations(tmp_path, [row], columns={"train": "learn"})
    assert [HELLO[0], {**HELLO[1], "train": False}] == made[0]["messages"]


REFUSED: dict[str, tuple[Any, str]] = {
    "no object": ("Hello", "is text and not an object"),
    "null": (None, "is null and not an object"),
    "no format": ({"a": "Hello", "b": "Hi"}, "its columns are of no format that is known: a, b"),
    "no columns": ({}, "its columns are of no format that is known: nothing"),
    "another column": ({"message": HELLO}, "its columns are of no format that is known: message"),
    "an empty column": ({"messages": None}, "'messages' is empty"),
    "no message": ({"messages": []}, "'messages' has no message"),
    "messages that are text": ({"messages": "Hello"}, "'messages' is not JSON: "),
    "messages that are an object": ({"messages": {"a": 1}}, "'messages' is an object and not a list of messages"),
    "a message that is text": ({"messages": ["Hello"]}, "message 1: is text and not an object"),
    "nobody speaks": (
        {"messages": [{"content": "Hello"}]},
        "message 1: has no 'role' that says who speaks; there is content",
    ),
    "an unknown role": (
        {"messages": [HELLO[0], {"role": "asistant", "content": "Hi"}]},
        "message 2: role 'asistant' is not known; known are system, developer, user, assistant",
    ),
    "a role of another format": (
        {"messages": [{"role": "human", "content": "Hello"}]},
        "message 1: role 'human' is not known",
    ),
    "a role that is no text": ({"messages": [{"role": 3, "content": "Hello"}]}, "message 1: role 3 is not known"),
    "an empty answer": (
        {"messages": [HELLO[0], {"role": "assistant", "content": " "}]},
        "message 2: 'content' is empty",
    ),
    "no answer": ({"messages": [HELLO[0], {"role": "assistant"}]}, "message 2: 'content' is empty"),
    "an empty question": ({"messages": [{"role": "user", "content": ""}, HELLO[1]]}, "message 1: 'content' is empty"),
    "a number": (
        {"messages": [{"role": "user", "content": 3}, HELLO[1]]},
        "message 1: 'content' is a number and not text",
    ),
    "an image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, HELLO[1]]},
        "message 1: 'content' has a part of type 'image_url', and text alone is trained",
    ),
    "images beside": ({"messages": HELLO, "images": ["a.png"]}, "'images' holds images, and text alone is trained"),
    "a weight in between": (
        {"messages": [HELLO[0], {**HELLO[1], "weight": 0.5}]},
        "message 2: 'weight' is 0.5, and only true, false, 1 and 0 are known",
    ),
    "train that is text": (
        {"messages": [HELLO[0], {**HELLO[1], "train": "no"}]},
        "message 2: 'train' is 'no', and only true, false, 1 and 0 are known",
    ),
    "arguments that are no JSON": (
        {
            "messages": [
                HELLO[0],
                {"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": "{city: Rome}"}}]},
            ]
        },
        "message 2: 'arguments of weather' is not JSON: ",
    ),
    "arguments that are a list": (
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": "[1]"}}]}]},
        "message 1: 'arguments of weather' are a list and not an object",
    ),
    "a call of nothing": (
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]}]},
        "message 1: 'tool_calls' has a call without the name of its function",
    ),
    "calls that are no list": (
        {"messages": [{"role": "assistant", "tool_calls": 3}]},
        "message 1: 'tool_calls' is a number",
    ),
    "a written call that is no JSON": (
        {"conversations": turns(("human", "Hello"), ("function_call", "weather(Rome)"))},
        "message 2: 'the call of a tool' is not JSON: ",
    ),
    "an empty call": (
        {"conversations": turns(("human", "Hello"), ("function_call", ""))},
        "message 2: is a call of a tool, and empty",
    ),
    "tools that are no JSON": ({"messages": HELLO, "tools": "weather"}, "'tools' is not JSON: "),
    "tools that are texts": ({"messages": HELLO, "tools": ["weather"]}, "'tools' is not a list of tools"),
    "two questions of sharegpt": (
        {"conversations": turns(("human", "Hello"), ("human", "Hello?"), ("gpt", "Hi"))},
        "message 2: the message before is from 'human' too",
    ),
    "two answers of sharegpt": (
        {"conversations": turns(("human", "Hello"), ("gpt", "Hi"), ("gpt", "Hi!"))},
        "message 3: the message before is from 'gpt' too",
    ),
    "a speaker of sharegpt": (
        {"conversations": turns(("bing", "Hello"), ("gpt", "Hi"))},
        "message 1: from 'bing' is not known",
    ),
    "half a pair": ({"conversation": [{"human": "Hello"}]}, "message 2: 'value' is empty"),
    "an empty output": ({"instruction": "Hello", "output": ""}, "'output' is empty"),
    "an output that is null": ({"instruction": "Hello", "output": None}, "'output' is empty"),
    "an output that is a number": ({"instruction": "Hello", "output": 4}, "'output' is a number and not text"),
    "no instruction": ({"instruction": " ", "input": "", "output": "Hi"}, "'instruction' is empty"),
    "an input that is a list": (
        {"instruction": "Hello", "input": [], "output": "Hi"},
        "'input' is a list and not text",
    ),
    "history that is no pair": (
        {"instruction": "Hello", "output": "Hi", "history": [["Who?"]]},
        "'history' is a list of [question, answer], and holds [\"Who?\"]",
    ),
    "an empty prompt": ({"prompt": "", "completion": "Hi"}, "'prompt' is empty"),
    "an empty completion": ({"prompt": "Hello", "completion": "\n"}, "'completion' is empty"),
    "a prompt of messages with a mistake": (
        {"prompt": [{"role": "me", "content": "Hello"}], "completion": [HELLO[1]]},
        "'prompt': message 1: role 'me' is not known",
    ),
    "a text for messages": ({"prompt": [HELLO[0]], "completion": "Hi"}, "'completion': 'messages' is not JSON"),
    "an empty response": ({"query": "Hello", "response": ""}, "'response' is empty"),
    "an empty text": ({"text": " \n"}, "'text' is empty"),
    "a text that is a number": ({"text": 3}, "'text' is a number and not text"),
    "half of a surrogate pair": ({"text": "\ud800"}, "holds half of a surrogate pair, which is not text"),
}


@pytest.mark.parametrize(("row", "problem"), REFUSED.values(), ids=REFUSED)
def test_a_row_that_is_no_conversation_is_refused(tmp_path, row, problem):
    """With the line that it is in, and with what to do."""
    with pytest.raises(LaunchError) as caught:
        conversations(tmp_path, [row])

    assert f"{tmp_path}/rows.jsonl:1: {problem}" in str(caught.value.what)
    assert caught.value.hint


GOOD: dict[str, Any] = {
    "messages": {"messages": HELLO},
    "sharegpt": {"conversations": turns(("human", "Hello"), ("gpt", "Hi"))},
    "alpaca": {"instruction": "Hello", "output": "Hi"},
    "prompt-completion": {"prompt": "Hello", "completion": "Hi"},
    "query-response": {"query": "Hello", "response": "Hi"},
    "text": {"text": "Hello"},
}


@pytest.mark.parametrize("name", GOOD)
def test_rows_of_a_set_are_of_one_format(tmp_path, name):
    """The first row says which; another one among them is named by its line, and so is every further mistake."""
    other = GOOD["text"] if name != "text" else GOOD["alpaca"]
    with pytest.raises(LaunchError) as caught:
        conversations(tmp_path, [GOOD[name], GOOD[name], other, GOOD[name], {}])

    assert [f"{tmp_path}/rows.jsonl:3: ", f"{tmp_path}/rows.jsonl:5: "] == [
        line.partition(" no column")[0] + " " for line in caught.value.what.splitlines()
    ]


@pytest.mark.parametrize("name", GOOD)
def test_a_format_can_be_named(tmp_path, name):
    """And is recognised without, with the same conversation."""
    assert conversations(tmp_path, [GOOD[name]]) == conversations(tmp_path, [GOOD[name]], format=name)


def test_mistakes_are_counted_beyond_the_first(tmp_path):
    """Twenty are shown."""
    with pytest.raises(LaunchError) as caught:
        conversations(tmp_path, [GOOD["text"], *[{"text": ""}] * 1030])

    lines = caught.value.what.splitlines()
    assert (21, "and 1,010 more like these") == (len(lines), lines[-1])
    assert "correct these rows, or remove them" == caught.value.hint


def test_a_package_adds_a_format(tmp_path, monkeypatch):
    """Used where a recipe names it; auto chooses from what is built in."""
    monkeypatch.syspath_prepend(str(PACKAGES / "stage"))
    plugins._entry_points.cache_clear()
    row = {"lines": "Q: Hello\nA: Hi"}

    assert [{"messages": HELLO}] == conversations(tmp_path, [row], format="stage")
    with pytest.raises(LaunchError, match="of no format that is known"):
        conversations(tmp_path, [row])
    with pytest.raises(LaunchError, match=r"rows\.jsonl:1: nobody is called 'B'"):
        conversations(tmp_path, [{"lines": "B: Hello"}], format="stage")
    plugins._entry_points.cache_clear()
