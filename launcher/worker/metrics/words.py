"""The words of texts, in Chinese too."""

from __future__ import annotations

import functools
import re
import string
from collections.abc import Iterable
from typing import Any

_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation + "，。！？；：、（）《》〈〉「」『』【】“”‘’—…·～")


def is_chinese(text: str) -> bool:
    """Whether a Chinese character is in it."""
    return bool(_HAN.search(text))


def are_chinese(texts: Iterable[str]) -> bool:
    return any(map(is_chinese, texts))


def bare(text: str) -> str:
    """Without case, punctuation and English articles, and with single spaces, as SQuAD's evaluation compares answers."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def tokens(text: str) -> list[str]:
    """The words of a bare text; of a Chinese one each character that is Chinese, and the words between them."""
    return _HAN.sub(lambda one: f" {one[0]} ", text).split()


def segmented(text: str) -> list[str]:
    """Words by jieba, in lower case, without white space."""
    return [word for word in _jieba().cut(text.lower()) if not word.isspace()]


@functools.cache
def _jieba() -> Any:
    import jieba

    tokenizer = jieba.Tokenizer()
    # `initialize` takes the dictionary from a file of the shared temporary folder, where another user may have put one.
    tokenizer.FREQ, tokenizer.total = tokenizer.gen_pfdict(tokenizer.get_dict_file())
    tokenizer.initialized = True
    return tokenizer
