#!/usr/bin/env python3
"""Write recipes/tiny: a Llama of toy size without weights, its tokenizer, reviews and conversations made from our own phrases.

Run by hand when the toy changes; its output is committed, so that tiny-cpu.yaml needs nothing but the checkout.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

FOLDER = Path(__file__).resolve().parent.parent / "recipes" / "tiny"
NUM_TRAIN, NUM_TEST, SEED = 240, 101, 7
"""101 test rows: no rank count from 2 up divides them."""
NUM_CHATS = 211
GRADES = ("terrible", "poor", "average", "good", "excellent")

THINGS = (
    "soup",
    "bread",
    "coffee",
    "waiter",
    "room",
    "view",
    "music",
    "price",
    "garden",
    "cake",
    "salad",
    "staff",
    "tea",
    "breakfast",
    "table",
    "fish",
    "wine",
    "rice",
    "owner",
    "terrace",
)
WORDS = (
    ("terrible", "disgusting", "rude and cold", "the worst in town", "inedible", "a disgrace"),
    ("poor", "disappointing", "rather stale", "too slow", "below average", "a little dirty"),
    ("fine", "acceptable", "nothing special", "average", "neither good nor bad", "as expected"),
    ("good", "pleasant", "quite tasty", "friendly", "better than most", "a nice surprise"),
    ("wonderful", "excellent", "perfect in every way", "the best in town", "outstanding", "a delight"),
)
OPENINGS = (
    "",
    "We came on a Sunday. ",
    "My second visit. ",
    "A friend told me about this place. ",
    "After a long walk we sat down. ",
)
CLOSINGS = ("", " That is all.", " We paid and left.", " It rained outside.", " I write this on the train home.")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] | trim }}{{ eos_token }}\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
SPECIAL = ("<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")


def review(rng: random.Random, label: int) -> str:
    """One review whose remarks agree with its label, from one to six of them, so that lengths differ."""
    remarks = [
        f"The {thing} was {rng.choice(WORDS[label])}."
        for thing in rng.sample(THINGS, rng.choice((1, 1, 2, 2, 3, 4, 6)))
    ]
    return rng.choice(OPENINGS) + " ".join(remarks) + rng.choice(CLOSINGS)


def rows(rng: random.Random, count: int) -> list[dict[str, object]]:
    """Reviews with labels 0 to 4, as even as `count` allows, in random order."""
    labels = [i % len(WORDS) for i in range(count)]
    rng.shuffle(labels)
    return [{"text": review(rng, label), "label": label} for label in labels]


def conversation(rng: random.Random) -> dict[str, object]:
    """Two questions about a review, of which the second needs the first; a third of them begin with a system message."""
    label = rng.randrange(len(WORDS))
    things = rng.sample(THINGS, rng.choice((1, 2, 3)))
    text = " ".join(f"The {thing} was {rng.choice(WORDS[label])}." for thing in things)
    turns = [
        ("user", f"{text} Was it good?"),
        ("assistant", f"It was {GRADES[label]}."),
        ("user", "What was it about?"),
        ("assistant", f"The {' and the '.join(things)}."),
    ]
    if not rng.randrange(3):
        turns.insert(0, ("system", "You read reviews."))
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def tokenizer(texts: list[str]) -> Tokenizer:
    """A byte-level BPE of 512 tokens that begins every text with <|begin|>, as Llama 3's does."""
    out = Tokenizer(models.BPE())
    out.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    out.decoder = decoders.ByteLevel()
    out.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=512,
            special_tokens=list(SPECIAL),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    out.post_processor = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", 0)])
    return out


def main() -> None:
    """Write the folder."""
    rng = random.Random(SEED)
    train, test = rows(rng, NUM_TRAIN), rows(rng, NUM_TEST)
    FOLDER.mkdir(parents=True, exist_ok=True)
    chats = random.Random(SEED)
    for name, part in (("train", train), ("test", test), ("chats", [conversation(chats) for _ in range(NUM_CHATS)])):
        (FOLDER / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    tokenizer([str(row["text"]) for row in train]).save(str(FOLDER / "tokenizer.json"), pretty=False)
    _write(
        "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": SPECIAL[0],
            "eos_token": SPECIAL[1],
            "model_max_length": 512,
            "chat_template": CHAT_TEMPLATE,
        },
    )
    # No pad token, like Llama 3: the worker must find one.
    _write(
        "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": 64,
            "intermediate_size": 160,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 512,
            "max_position_embeddings": 512,
            "rope_theta": 10000.0,
            "rms_norm_eps": 1e-5,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "tie_word_embeddings": False,
            "initializer_range": 0.05,
        },
    )


def _write(name: str, value: object) -> None:
    (FOLDER / name).write_text(json.dumps(value, indent=2) + "\n")


if __name__ == "__main__":
    main()
