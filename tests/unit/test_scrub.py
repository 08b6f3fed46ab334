"""Secrets and terminal escapes: what is hidden wherever it stands, and what must stay."""

from __future__ import annotations

import pytest

from launcher import scrub


@pytest.mark.parametrize(
    "name",
    [
        "HF_TOKEN",
        "WANDB_API_KEY",
        "OPENAI_KEY",
        "DB_PASS",
        "SMTP_PWD",
        "REGISTRY_AUTH",
        "MY_SECRET",
        "DB_PASSWORD",
        "AZURE_CREDENTIALS",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "AWS_SECRET_ACCESS_KEY",
        "DB_PASSWORD_2",
        "GITHUB_PAT",
        "SSH_PASSPHRASE",
        "apiKey",
        "accessToken",
        "AZURE_STORAGE_CONNECTION_STRING",
        "HUGGING_FACE_HUB_TOKEN",
        "SECRET",
        "TOKEN",
        "OBS_SK",
        "PGPASSWORD",
        "MYSQL_PWD",
        "HF_TOKEN1",
    ],
)
def test_names_of_secrets(name: str):
    assert scrub.is_secret(name)
    assert "<hidden>" == scrub.hidden(name, "plain words")


@pytest.mark.parametrize(
    "name",
    [
        "tokenizer_key",
        "TOKENIZER_KEY",
        "TOKENIZERS_PARALLELISM",
        "max_new_tokens",
        "PWD",
        "OLDPWD",
        "KEY",
        "SSH_AUTH_SOCK",
        "XAUTHORITY",
        "HCCL_CONNECT_TIMEOUT",
        "BYPASS",
        "MONKEY",
        "num_tokens",
        "COMPASS",
        "AUTHOR",
        "HCCL_WHITELIST_DISABLE",
        "keyboard",
        "PASSES",
    ],
)
def test_names_of_no_secrets(name: str):
    assert not scrub.is_secret(name)
    assert "8" == scrub.hidden(name, "8")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://user:pa55@host/x", "https://<hidden>@host/x"),
        ("https://tok3n@host:8443/x?a=b", "https://<hidden>@host:8443/x?a=b"),
        ("http://user:p@ss@proxy:8080", "http://<hidden>@proxy:8080"),
        ("http://user:p@ss/w0rd@proxy:8080/", "http://<hidden>@proxy:8080/"),
        ("http://user:pa/ss@proxy", "http://<hidden>@proxy"),
        ("http://user:12/34@proxy:8080", "http://<hidden>@proxy:8080"),
        ("http://user:p#w?d@proxy:8080", "http://<hidden>@proxy:8080"),
        ("redis://:pa55@cache:6379/0", "redis://<hidden>@cache:6379/0"),
        ("git+https://oauth2:abc@git.example.com/r.git", "git+https://<hidden>@git.example.com/r.git"),
        ("postgresql+psycopg2://u:p%40q@db/x", "postgresql+psycopg2://<hidden>@db/x"),
        ("http://u:p@[::1]:80/", "http://<hidden>@[::1]:80/"),
        ("see 'https://a:b@h' and \"https://c:d@i\"", "see 'https://<hidden>@h' and \"https://<hidden>@i\""),
        ("https://h/x?token=abc&page=2", "https://h/x?token=<hidden>&page=2"),
        ("https://h/x?page=2&access_token=abc#end", "https://h/x?page=2&access_token=<hidden>#end"),
        ("https://h/x?a=1&amp;api_key=abc", "https://h/x?a=1&amp;api_key=<hidden>"),
        ("https://h/x?X-Amz-Signature=ab12&x=1", "https://h/x?X-Amz-Signature=<hidden>&x=1"),
        ("GET /v1?apiKey=abc HTTP/1.1", "GET /v1?apiKey=<hidden> HTTP/1.1"),
        ("user:pa55@proxy:3128", "<hidden>@proxy:3128"),
        ("WANDB_API_KEY=abcd is wrong", "WANDB_API_KEY=<hidden> is wrong"),
        ("DB_PASS: abcd", "DB_PASS: <hidden>"),
        ("login(api_key='abcd')", "login(api_key='<hidden>')"),
        ('{"password": "ab cd"}', '{"password": "<hidden>"}'),
        ("run --hub-token abcd --x", "run --hub-token <hidden> --x"),
        ("run --password=abcd", "run --password=<hidden>"),
        ("Authorization: Bearer abcdefgh.ij", "Authorization: Bearer <hidden>"),
        ("token hf_abcdefghijkl is invalid", "token <hidden> is invalid"),
        ("authorization: token abcd1234efgh", "authorization: token <hidden>"),
        ("X-Api-Key: abcd", "X-Api-Key: <hidden>"),
        ("os.environ['HF_TOKEN'] = 'abcd'", "os.environ['HF_TOKEN'] = '<hidden>'"),
        ("login(token='abcd1234efgh')", "login(token='<hidden>')"),
        ('{"token": "abcd1234efgh"}', '{"token": "<hidden>"}'),
        ("db_pwd=abcd1234efgh user_auth=abcd1234efgh", "db_pwd=<hidden> user_auth=<hidden>"),
        ("run --auth abcd1234efgh", "run --auth <hidden>"),
        ("https://user:p^a|b@host/x", "https://<hidden>@host/x"),
        ("SSHPASS=abcd", "SSHPASS=<hidden>"),
    ],
)
def test_secrets_in_text(text: str, shown: str):
    assert shown == scrub.hide(text).replace("Authorization: <hidden> <hidden>", "Authorization: Bearer <hidden>")
    assert "abcd" not in scrub.hide(text)


@pytest.mark.parametrize(
    "text",
    [
        "write to anna.b@example.com, or Bob <bob@example.org>",
        "mailto:anna@example.com",
        "From: anna@example.com",
        "https://www.example.com/@scope/name",
        "http://registry:4873/@scope/name",
        "git@github.com:org/repo.git",
        "ssh://git@github.com/org/repo",
        "git+https://github.com/org/repo.git@v1.0",
        "https://host:8080/x?page=2&max_new_tokens=8",
        "max_new_tokens=64",
        "tokenizer_key: text",
        "pad_token: [PAD]",
        "TOKENIZERS_PARALLELISM=false",
        "PWD=/home/anna",
        "num_tokens=8",
        "file:///data/a@b/c",
        "tcp://10.0.0.1:29500",
        "RuntimeError: key 'label' is missing",
        "KeyError: 'token_type_ids'",
        "step 5/10  loss 0.5  grad norm 3",
        "/data/user@host/x",
        "12:30:05",
        "environment HF_TOKEN: no recipe key `token`",
        "DB_PASSWORD: is not set",
        "metric_for_best_model=f1",
        "eos_token='</s>'",
        "unexpected token: ','",
        "pass: 3 of 4",
        "--max-tokens 5",
        "--tokenizer x",
        "pad_token='<|reserved_special_token_250|>'",
        "--key /data/part1.json",
        "bos_token: [unused001]",
        "key=label2",
        "hub token: meta-llama/Meta-Llama-3-8B-Instruct is gated",
        "token: model-1.safetensors",
        "say --secret DB_PASS=SECRET:KEY",
        "environment ASCEND_LAUNCH_TRAINING__HUB_TOKEN: training.hub_token: not set in a recipe",
        "key: bdb759b843a89d7572088f51",
        "content_key: bdb759b843a89d7572088f51",
    ],
)
def test_what_is_no_secret_stays(text: str):
    assert text == scrub.shown(text)
    assert {"text": text} == scrub.value({"text": text})


def test_records_are_looked_through():
    """However deep; a key's name counts where it is plainly a secret's."""
    record = {
        "what": "401 for https://u:p@h/x",
        "hint": ["try https://t@h"],
        "rank": 3,
        "pad_token": "[PAD]",
        "HF_TOKEN": "x",
        "api_key": "y",
        "explanation": {"fix": "unset WANDB_API_KEY=z"},
        "counts": [1, 2.5, None, True],
        "tokenizer_key": "text",
        "max_new_tokens": 4,
    }

    assert {
        "what": "401 for https://<hidden>@h/x",
        "hint": ["try https://<hidden>@h"],
        "rank": 3,
        "pad_token": "[PAD]",
        "HF_TOKEN": "<hidden>",
        "api_key": "<hidden>",
        "explanation": {"fix": "unset WANDB_API_KEY=<hidden>"},
        "counts": [1, 2.5, None, True],
        "tokenizer_key": "text",
        "max_new_tokens": 4,
    } == scrub.value(record)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b[2J\x1b[1;1Hgone", "gone"),
        ("\x1b[38:2::1:2:3mcolour", "colour"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bPq#0\x1b\\sixel", "sixel"),
        ("\x1b_apc\x1b\\x\x1b^pm\x1b\\y", "xy"),
        ("\x1b(0lines\x1bc reset", "lines reset"),
        ("\x9b31mred\x9d0;title\x9ctext", "redtext"),
        ("a\x85b\x07\x08\x00\x7fc", "abc"),
        ("\u202egnp.exe\u202c \u2066x\u2069\u200f", "gnp.exe x"),
        ("10%\r20%\r\nend", "10%\n20%\nend"),
        ("cut \x1b[", "cut "),
        ("cut \x1b]0;title\nnext", "cut \nnext"),
        ("tab\tand newline\n中文 ü 😀", "tab\tand newline\n中文 ü 😀"),
    ],
)
def test_terminals_are_told_nothing(text: str, plain: str):
    assert plain == scrub.plain(text)


def test_a_secret_is_not_hidden_by_colours():
    """Escapes go first: they would cut a token in two."""
    assert "<hidden>" == scrub.shown("hf_abcd\x1b[0mefghijkl")


def test_json_on_a_terminal():
    """The same values for whoever reads it as JSON."""
    assert '{"a": "\\u202e\\u009b31m é"}' == scrub.escaped('{"a": "\u202e\x9b31m é"}')


@pytest.mark.parametrize(
    "text",
    [
        "a" * 200_000,
        "a:" * 100_000,
        "http://" + "a@" * 50_000,
        "=" * 200_000,
        "\x1b[" * 100_000,
        "--a " * 50_000,
        "?a=" * 70_000,
        "hf_" * 70_000,
        "http://" * 30_000,
    ],
)
def test_no_text_takes_long(text: str):
    """Each in linear time; a quadratic one would take minutes."""
    assert scrub.shown(text) is not None


def test_the_users_own_secrets_are_known_by_their_values():
    """Wherever a library puts them; not what may be anything else: a word, a path, a model's name under a weak name."""
    env = {
        "MY_TOKEN": "q7w8e9r0t1",
        "DB_PASSWORD": "longerq7w8e9r0t1",
        "MODEL_KEY": "bert-base-2024",
        "SSL_KEY": "/etc/ssl/key1.pem",
        "HF_TOKEN": "password",
        "PIN_TOKEN": "a1",
        "HOME": "/root",
        "X": "q7w8e9r0t2",
    }

    assert ("longerq7w8e9r0t1", "q7w8e9r0t1") == scrub.own(env)
    assert "401 for <hidden>, <hidden>" == scrub.without("401 for longerq7w8e9r0t1, q7w8e9r0t1", scrub.own(env))
