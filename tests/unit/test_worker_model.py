"""Losses and predictions of rows: the same alone or in a batch, with logits only where they are used."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BartConfig,
    BertConfig,
    LlamaConfig,
)
from transformers.models.auto import configuration_auto
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)

from launcher.errors import LaunchError
from launcher.machine.cluster import Cluster
from launcher.models import positions
from launcher.models.folder import classes, native
from launcher.planning import decide, plan
from launcher.recipe import load
from launcher.worker.engines.fsdp2 import Fsdp2
from launcher.worker.losses.base import Settings
from launcher.worker.losses.cross_entropy import CrossEntropy
from launcher.worker.models.adapter import with_adapter
from launcher.worker.models.load import load_model
from launcher.worker.tasks.answers import Answering
from launcher.worker.tasks.base import pad
from launcher.worker.tasks.classification import Classification, hides_padding
from launcher.worker.tasks.targets import OneLabel

PAD = 1
CONFIG = LlamaConfig(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=64,
    num_labels=3,
    pad_token_id=PAD,
    bos_token_id=0,
    eos_token_id=PAD,
)
ROWS = [
    {"input_ids": [0, 5, 6, 7, 8], "labels": 2},
    {"input_ids": [0, 9], "labels": 0},
    {"input_ids": [0, 11, 12, 13], "labels": 1},
]
ONE_TOKEN = [[20, PAD], [21, PAD], [22, PAD]]
MANY_TOKENS = [[20, PAD], [20, 30, PAD], [22, 31, 32, PAD]]
"""The first answer begins the second, so only the end of turn tells them apart."""


@pytest.fixture(scope="module")
def language_model():
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIG, dtype=torch.float32).eval()


def answering(answers):
    return Answering(PAD, 1, 0.0, answers, {"logits_to_keep", "position_ids"})


def log_probability(model, prompt, answer, skip_end=False):
    """Of the answer after the prompt, token by token, straight from the definition."""
    ids = torch.tensor([[*prompt, *answer]])
    logits = functional.log_softmax(model(input_ids=ids).logits[0].float(), -1)
    terms = [logits[len(prompt) + i - 1, token] for i, token in enumerate(answer)]
    return torch.stack(terms[:-1] if skip_end else terms)


def test_padding_goes_to_the_asked_side_and_width():
    """Rows padded left end together, rows padded right begin together; widths round up."""
    ids, mask = pad([[5, 6, 7], [8]], PAD, 4, left=True)

    assert [[PAD, 5, 6, 7], [PAD, PAD, PAD, 8]] == ids.tolist()
    assert [[0, 1, 1, 1], [0, 0, 0, 1]] == mask.tolist()
    assert [[5, 6, 7], [8, PAD, PAD]] == pad([[5, 6, 7], [8]], PAD, 1, left=False)[0].tolist()


def test_classification_is_the_same_alone_and_in_a_batch():
    """A row's loss and label do not depend on the rows beside it: the head reads the last token that is no padding."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(CONFIG, dtype=torch.float32).eval()
    task = Classification(PAD, 1, OneLabel(), CrossEntropy(Settings()))

    columns, losses, counts = task.evaluate(model, task.collate(ROWS))
    alone = [task.evaluate(model, task.collate([row])) for row in ROWS]

    torch.testing.assert_close(losses, torch.cat([one.losses for one in alone]), rtol=1e-5, atol=1e-6)
    assert [one.columns["prediction"].item() for one in alone] == columns["prediction"].tolist()
    assert [row["labels"] for row in ROWS] == columns["label"].tolist()
    assert [1] * len(ROWS) == counts.tolist()
    torch.testing.assert_close(losses, task.losses(model, task.collate(ROWS)))


def test_a_decoders_padding_is_hidden_without_a_mask():
    """Tokens on the right are seen by none before them: without the mask, losses and labels are the same."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(CONFIG, dtype=torch.float32).eval()
    batch = Classification(PAD, 1, OneLabel(), CrossEntropy(Settings())).collate(ROWS)

    assert hides_padding(model)
    expected, found = (
        Classification(PAD, 1, OneLabel(), CrossEntropy(Settings()), needs_mask=m).evaluate(model, batch)
        for m in (True, False)
    )

    assert expected.columns["prediction"].tolist() == found.columns["prediction"].tolist()
    torch.testing.assert_close(found.losses, expected.losses, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", ["encoder", "eager"])
def test_models_that_look_ahead_keep_the_mask(kind):
    """An encoder sees padding after a token, and eager attention has no flag that says causal."""
    if kind == "encoder":
        config = BertConfig(
            vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
        )
    else:
        config = copy.deepcopy(CONFIG)
        config._attn_implementation = "eager"

    assert not hides_padding(AutoModelForSequenceClassification.from_config(config))


@pytest.mark.parametrize("answers", [ONE_TOKEN, MANY_TOKENS])
def test_an_answers_loss_is_the_mean_over_its_own_tokens(language_model, answers):
    """Prompt and padding cost nothing; answers of other lengths in the batch change nothing."""
    task = answering(answers)

    losses = task.losses(language_model, task.collate(ROWS))
    expected = [-log_probability(language_model, r["input_ids"], answers[r["labels"]]).mean() for r in ROWS]

    torch.testing.assert_close(losses, torch.stack(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("answers", "skip_end"), [(ONE_TOKEN, True), (MANY_TOKENS, False), ([[20, 5, PAD], [20, 6, PAD], [21, PAD]], True)]
)
def test_the_label_whose_answer_is_likeliest_wins(language_model, answers, skip_end):
    """Labels are compared by their whole answers, with the end of turn where one answer begins another."""
    task = answering(answers)

    columns, losses, _ = task.evaluate(language_model, task.collate(ROWS))
    expected = [
        max(
            range(3), key=lambda k: log_probability(language_model, row["input_ids"], answers[k], skip_end).sum().item()
        )
        for row in ROWS
    ]

    assert expected == columns["prediction"].tolist()
    torch.testing.assert_close(losses, task.losses(language_model, task.collate(ROWS)))


def test_logits_are_computed_for_answer_positions_only(language_model):
    """The head sees as many positions as the longest answer has tokens, and one more; never the prompt."""
    seen = []
    hook = language_model.lm_head.register_forward_hook(lambda module, args, out: seen.append(tuple(out.shape)))
    task = answering(ONE_TOKEN)

    task.losses(language_model, task.collate(ROWS))
    hook.remove()

    assert [(3, 3, 64)] == seen


SIZES = {
    32: "hidden_size n_embd d_model dim embedding_size word_embed_proj_dim max_position_embeddings n_positions",
    64: "vocab_size hidden_dim intermediate_size ffn_dim encoder_ffn_dim decoder_ffn_dim",
    1: "num_hidden_layers n_layer n_layers encoder_layers decoder_layers pad_token_id",
    2: "num_attention_heads n_head n_heads encoder_attention_heads decoder_attention_heads eos_token_id",
    0: "bos_token_id",
}
SMALL = {key: size for size, keys in SIZES.items() for key in keys.split()}
"""One small model of any family, by the keys of all."""


@pytest.mark.parametrize(
    ("table", "own"),
    [
        ("CONFIG_MAPPING_NAMES", configuration_auto.CONFIG_MAPPING_NAMES),
        ("MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES", MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES),
        ("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
    ],
)
def test_transformers_tables_are_read_whole_without_importing_it(table, own):
    """A type that is missed would have its model refused."""
    assert own.keys() == native(table)
    named = {kind: name for kind, name in own.items() if isinstance(name, str)}
    assert named == {kind: name for kind, name in classes(table).items() if name}


@pytest.mark.parametrize(
    "kind",
    ["albert", "bart", "bert", "deberta", "distilbert", "electra", "gpt2", "mpnet", "opt", "roberta", "xlm-roberta"],
)
def test_the_longest_row_of_a_table_of_positions_is_the_one_that_is_said(kind):
    """A row of that length is computed by the real model, and one of a token more raises, as it would in a rank."""
    fields = CONFIG_MAPPING[kind]()
    known = fields.to_dict().keys() | type(fields).attribute_map.keys()
    config = CONFIG_MAPPING[kind](**{key: value for key, value in SMALL.items() if key in known})
    model = AutoModelForSequenceClassification.from_config(config).eval()
    limit, _ = positions.positions(config.to_dict())

    def run(length):
        ids = torch.full((1, length), 5)
        ids[0, -1] = config.eos_token_id  # BART reads it for its head
        with torch.no_grad():
            model(input_ids=ids, attention_mask=torch.ones_like(ids))

    run(limit)
    with pytest.raises((IndexError, RuntimeError)):
        run(limit + 1)


def planned(recipe, strategy="ddp", **sections):
    loaded = load.load(recipe(parallel={"strategy": strategy}, **sections), (), {})
    return decide.make(loaded, Cluster("cpu", source="a test"), plan.Options())


def trained(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("module", ["embed_tokens", "model.embed_tokens", "score"])
def test_modules_to_save_are_trained_beside_factors_and_head(recipe, module):
    """peft appends a classifier's head to the list, which a tuple does not allow."""
    made = planned(recipe, adapter={"r": 4, "modules_to_save": [module]})
    model = with_adapter(made, AutoModelForSequenceClassification.from_config(CONFIG))
    whole = {name for name in trained(model) if "lora_" not in name}

    heads = {"base_model.model.score.modules_to_save.default.weight"}
    embedding = {"base_model.model.model.embed_tokens.modules_to_save.default.weight"}
    assert heads | (set() if module == "score" else embedding) == whole
    assert 2 * 2 * 7 == len(trained(model) - whole)


@pytest.mark.parametrize("config", [CONFIG, BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2)])
def test_a_head_over_words_is_trained_whole_beside_its_factors(recipe, config):
    """`all-linear` is every layer but the head, of which peft knows those over texts alone."""
    made = planned(recipe, model={"task": "token-classification"}, adapter={"r": 4})
    model = with_adapter(made, AutoModelForTokenClassification.from_config(config))
    whole = {name for name in trained(model) if "lora_" not in name}
    head = "score" if config is CONFIG else "classifier"

    assert {f"base_model.model.{head}.modules_to_save.default.{part}" for part in ("weight", "bias")} == whole
    assert not [name for name in trained(model) - whole if head in name]


def test_a_module_to_save_that_the_model_has_not_is_refused(recipe):
    """peft passes it over, and trains less than was asked for."""
    with pytest.raises(LaunchError, match=r"has no module embed_token\n") as caught:
        with_adapter(
            planned(recipe, adapter={"modules_to_save": ["embed_token"]}),
            AutoModelForSequenceClassification.from_config(CONFIG),
        )
    assert "embed_tokens" in caught.value.hint


@pytest.mark.parametrize(
    ("config", "head", "named", "wrapped"),
    [
        (BartConfig, AutoModelForCausalLM, "BartEncoderLayer", {"BartDecoderLayer"}),
        (BertConfig, AutoModelForSequenceClassification, "BertEmbeddings", {"BertLayer"}),
    ],
)
def test_fsdp2_wraps_layer_classes_that_it_can(config, head, named, wrapped):
    """A BART that only decodes names the encoder's layer, for which accelerate raises; BertEmbeddings holds the input
    embedding, which accelerate shards by itself, and torch raises for the second time."""
    model = head.from_config(config(**{key: value for key, value in SMALL.items() if key in config().to_dict()}))
    assert named in model._no_split_modules

    Fsdp2().adapt_model(model)
    assert wrapped == model._no_split_modules


def prepared(folder, num_labels):
    names = tuple(f"label {i}" for i in range(num_labels))
    return SimpleNamespace(model_path=str(folder), num_labels=num_labels, label_names=names, adapter_path=None)


@pytest.mark.parametrize(("there", "kept"), [(5, True), (3, False)])
def test_a_head_of_another_size_is_replaced_and_nothing_else(recipe, tmp_path, there, kept):
    """A checkpoint of 3 labels for a recipe of 5: a new head, and every other weight as it was."""
    config = copy.deepcopy(CONFIG)
    config.num_labels = there
    saved = AutoModelForSequenceClassification.from_config(config)
    saved.save_pretrained(tmp_path / "model")
    model = load_model(planned(recipe), prepared(tmp_path / "model", 5), SimpleNamespace(pad_token_id=PAD))

    assert (5, 32) == tuple(model.score.weight.shape)
    assert kept == (there == 5 and torch.equal(saved.score.weight, model.score.weight))
    assert (5, "label 4") == (model.config.num_labels, model.config.id2label[4])
    torch.testing.assert_close(model.model.state_dict(), saved.model.state_dict())


def test_weights_that_are_not_their_configs_are_refused(recipe, tmp_path):
    """Only a head may be of another size: an embedding of another vocabulary is another model's."""
    config = copy.deepcopy(CONFIG)
    config.num_labels = 3
    saved = AutoModelForSequenceClassification.from_config(config)
    saved.config.vocab_size = 70
    saved.save_pretrained(tmp_path / "model")

    with pytest.raises(LaunchError, match=r"not of the sizes that its config\.json says"):
        load_model(planned(recipe), prepared(tmp_path / "model", 5), SimpleNamespace(pad_token_id=PAD))
