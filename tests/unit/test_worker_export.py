"""One folder that transformers loads as it is, whoever trained the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from launcher import files
from launcher.errors import LaunchError
from launcher.jobs import trained
from launcher.recipe.schema import Adapter, Data, Model, RecipeSpec
from launcher.rundir.paths import MODEL_NOTE
from launcher.worker.weights.export import Request, export

TINY = Path(__file__).parents[2] / "recipes" / "tiny"
NAMES = ("bad", "good")
WORDS = "a good place"


@pytest.fixture
def saved(tmp_path: Path):
    """Write a small random model with its tokenizer; the folder and the model."""

    def make(auto: Any, **settings: Any) -> tuple[Path, Any]:
        torch.manual_seed(0)
        config = AutoConfig.from_pretrained(TINY, **settings)
        config.pad_token_id = None
        model, folder = auto.from_config(config), tmp_path / "model"
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(TINY).save_pretrained(folder)
        return folder, model.eval()

    return make


@pytest.fixture
def adapter(tmp_path: Path):
    """Train nothing, but fill an adapter with numbers; the folder and peft's model."""
    peft = pytest.importorskip("peft", reason="the lora extra is not installed")

    def make(base: Path, model: Any, task: str, **settings: Any) -> tuple[Path, Any]:
        wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, lora_alpha=4, task_type=task, **settings)).eval()
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.data = torch.rand_like(parameter) / 10
        wrapped.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
        settings = files.read_json(tmp_path / "adapter" / "adapter_config.json")
        files.write_json(
            tmp_path / "adapter" / "adapter_config.json", settings | {"base_model_name_or_path": str(base)}
        )
        return tmp_path / "adapter", wrapped

    return make


def run(folder: Path, recipe: RecipeSpec, **more: Any) -> dict[str, Any]:
    words = {
        "checkpoint": None,
        "dtype": None,
        "max_shard_bytes": 10**9,
        "adapter_only": False,
        "strategy": None,
        "precision": None,
    }
    request = Request(weights=str(folder), out=f"{folder}-out", recipe=recipe.model_dump(mode="json"), **(words | more))
    return export(request)


def recipe_for(base: Path, task: Any) -> RecipeSpec:
    answers = (" no", " yes") if task == "causal-lm" else None
    return RecipeSpec(
        model=Model(name=str(base), task=task, label_names=NAMES),
        data=Data(path="json", answers=answers, prompt="{text}" if answers else None),
        adapter=Adapter(),
    )


def test_a_classifier_from_elsewhere_is_exported_with_its_own_labels(saved):
    """Nothing beside it tells a recipe: its config tells the labels, and nobody says on what it was trained."""
    folder, model = saved(AutoModelForSequenceClassification, id2label={0: "no", 1: "perhaps", 2: "yes"})
    run(folder, trained.recipe_of(trained.find(str(folder), "")))
    out = Path(f"{folder}-out")
    again = AutoModelForSequenceClassification.from_pretrained(out)

    assert {0: "no", 1: "perhaps", 2: "yes"} == again.config.id2label
    assert all(torch.equal(a, again.state_dict()[name]) for name, a in model.state_dict().items())
    assert ["no", "perhaps", "yes"] == files.read_json(out / MODEL_NOTE)["recipe"]["model"]["label_names"]
    assert "Trained by" not in (out / "README.md").read_text()


def test_an_adapter_from_elsewhere_needs_a_recipe(saved, adapter):
    """Nothing tells how many labels it has, and nothing is written."""
    base, model = saved(AutoModelForSequenceClassification, num_labels=2)
    folder, _ = adapter(base, model, "SEQ_CLS", target_modules="all-linear")

    with pytest.raises(LaunchError, match="how many labels"):
        run(folder, trained.recipe_of(trained.find(str(folder), "")))
    assert not Path(f"{folder}-out").exists()


def test_a_merged_classifier_knows_its_pad_token(saved, adapter):
    """Llama's own config has none, and transformers then refuses more than one text at a time."""
    base, model = saved(AutoModelForSequenceClassification, num_labels=2)
    folder, wrapped = adapter(base, model, "SEQ_CLS", target_modules="all-linear")
    run(folder, recipe_for(base, "sequence-classification"))
    merged = AutoModelForSequenceClassification.from_pretrained(f"{folder}-out")
    batch = AutoTokenizer.from_pretrained(f"{folder}-out")([WORDS, "bad"], padding=True, return_tensors="pt")
    wrapped.config.pad_token_id = wrapped.get_base_model().config.pad_token_id = merged.config.pad_token_id

    with torch.no_grad():
        torch.testing.assert_close(merged(**batch).logits, wrapped(**batch).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": "all-linear"},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
        {"target_modules": ["q_proj", "lm_head"]},
    ],
    ids=["neither", "embedding", "head"],
)
def test_of_two_tied_weights_the_one_that_was_trained_is_merged_alone(saved, adapter, settings: dict[str, Any]):
    """The logits after export are those before; the weights stay tied where neither was trained."""
    base, model = saved(AutoModelForCausalLM, tie_word_embeddings=True)
    folder, wrapped = adapter(base, model, "CAUSAL_LM", **settings)
    run(folder, recipe_for(base, "causal-lm"))
    merged = AutoModelForCausalLM.from_pretrained(f"{folder}-out")
    ids = AutoTokenizer.from_pretrained(base)(WORDS, return_tensors="pt").input_ids

    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, wrapped(ids).logits, atol=1e-5, rtol=1e-5)
    assert (len(settings) == 1 and "lm_head" not in settings["target_modules"]) == merged.config.tie_word_embeddings


def test_a_tied_weight_that_only_peft_can_merge_is_refused(saved, adapter):
    """peft would add the embedding's part to the head too."""
    base, model = saved(AutoModelForCausalLM, tie_word_embeddings=True)
    folder, _ = adapter(base, model, "CAUSAL_LM", target_modules=["q_proj", "embed_tokens"])

    with pytest.raises(LaunchError, match=r"embed_tokens.* tied"):
        run(folder, recipe_for(base, "causal-lm"))
