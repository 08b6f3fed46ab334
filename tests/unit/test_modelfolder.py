"""What a model's files tell before a launch: what cannot be trained is refused with the way out, by config and headers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launcher.errors import LaunchError
from launcher.models import headers, positions
from launcher.models.folder import check, native, require_model
from launcher.models.headers import Tensors
from launcher.models.positions import _AFTER_PADDING, _TABLE
from launcher.models.wanted import About, Wanted

LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 160,
    "vocab_size": 512,
    "max_position_embeddings": 512,
}
HEADS = "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES"
WANTED = Wanted("the-model", "sequence-classification", 5, (), 128, mapping=HEADS, has_head=True)


def write(folder: Path, config: dict[str, Any] | None = None, tensors: Tensors | None = None, **files: Any) -> Path:
    """A model folder; weights are a header without data."""
    folder.mkdir(parents=True, exist_ok=True)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    if tensors is not None:
        head = {
            name: {"dtype": dtype, "shape": shape, "data_offsets": [0, 0]} for name, (dtype, shape) in tensors.items()
        }
        text = json.dumps({"__metadata__": {"format": "pt"}, **head}).encode()
        (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    for name, value in files.items():
        (folder / name.replace("__", ".")).write_text(value if isinstance(value, str) else json.dumps(value))
    return folder


def refusal(folder: Path | None, config: dict[str, Any], wanted: Wanted = WANTED) -> LaunchError:
    with pytest.raises(LaunchError) as caught:
        check(folder, config, wanted)
    assert 2 == caught.value.exit_code
    return caught.value


def test_a_model_that_needs_code_of_its_folder_is_refused():
    """A type that transformers has not, with auto_map: the code would have to be run."""
    error = refusal(None, {**LLAMA, "model_type": "internlm2", "auto_map": {"AutoConfig": "configuration_internlm2.X"}})

    assert "'internlm2' needs code from its own folder" in error.what
    assert "configuration_internlm2.py" in error.what


def test_a_type_that_transformers_has_not_is_refused():
    """Also without auto_map: each rank would refuse it."""
    assert "no model of type 'chatglm'" in refusal(None, {**LLAMA, "model_type": "chatglm"}).what


def test_code_beside_a_known_type_is_not_needed():
    """Phi-3 and others came with code before transformers had them; it is not run, and not missed."""
    known = {**LLAMA, "auto_map": {"AutoConfig": "configuration_llama.LlamaConfig"}}

    assert check(None, known, WANTED).num_parameters


WRITES = replace(WANTED, task="sft", mapping="MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", has_head=False)


@pytest.mark.parametrize("kind", ["gemma3", "qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("wanted", [WANTED, WRITES], ids=["classifies", "writes"])
def test_a_model_that_sees_is_refused(kind: str, wanted: Wanted):
    """No text reaches its vision tower."""
    config = {"model_type": kind, "vision_config": {"hidden_size": 8}, "text_config": LLAMA}

    assert (
        f"a model of type {kind!r} sees or hears too (vision_config in config.json)"
        in refusal(None, config, wanted).what
    )


def test_a_model_that_sees_is_taken_where_transformers_makes_one_of_text_of_it():
    """As AutoModelForCausalLM does for Llama 4."""
    assert check(None, {"model_type": "llama4", "vision_config": {}, "text_config": LLAMA}, WRITES)


def test_a_type_without_the_tasks_class_is_refused():
    """ViT is no language model: before ranks, not when each of them loads it."""
    assert (
        "no causal-lm model of type 'vit'"
        in refusal(
            None,
            {"model_type": "vit"},
            replace(WANTED, task="causal-lm", mapping="MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", has_head=False),
        ).what
    )


@pytest.mark.parametrize(
    ("config", "how"),
    [
        ({"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}, "fp8"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq, 4 bit"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "awq, 4 bit"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "bitsandbytes, 4 bit"),
        (
            {"quantization_config": {"quant_method": "compressed-tensors", "format": "float-quantized"}},
            "compressed-tensors",
        ),
        ({"quantization": {"group_size": 64, "bits": 4}}, "in an unnamed format, 4 bit"),  # MLX
        ({"quantize": "w8a8"}, "w8a8"),  # MindIE
        ({"compression_config": {"format": "int-quantized"}}, "int-quantized"),
        ({"text_config": {"quantization_config": {"quant_method": "mxfp4"}}}, "mxfp4"),
    ],
)
def test_quantised_weights_are_refused_by_their_config(config: dict[str, Any], how: str):
    """Whatever the method, and before a strategy is looked at."""
    error = refusal(None, {**LLAMA, **config})

    assert f"its weights are quantised ({how})" in error.what
    assert "bf16" in error.hint


@pytest.mark.parametrize(
    ("tensors", "files", "how"),
    [
        ({"model.layers.0.q.weight": ("F8_E4M3", (8, 8))}, {}, "fp8"),
        ({"model.layers.0.q.qweight": ("I32", (8, 1))}, {}, "q.qweight"),
        ({"model.layers.0.q.weight.absmax": ("F32", (8,))}, {}, "absmax"),
        (
            {"model.layers.0.q.weight": ("I8", (8, 8))},
            {"quant_model_description_w8a8__json": {}},
            "quant_model_description",
        ),
        ({"model.layers.0.q.weight": ("I32", (8, 8))}, {"quantize_config__json": {}}, "quantize_config.json"),
    ],
)
def test_quantised_weights_are_refused_by_their_files(tmp_path: Path, tensors: Any, files: Any, how: str):
    """Also where config.json says nothing, as beside older GPTQ weights and msModelSlim's."""
    folder = write(tmp_path / "m", LLAMA, tensors, **files)

    assert how in refusal(folder, LLAMA).what


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("Qwen/Qwen3-8B-FP8", "Qwen/Qwen3-8B"),
        ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4", "Qwen/Qwen2.5-7B-Instruct"),
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", "Qwen/Qwen2.5-7B-Instruct"),
        ("unsloth/Meta-Llama-3.1-8B-bnb-4bit", "unsloth/Meta-Llama-3.1-8B"),
    ],
)
def test_the_plain_model_is_named_where_the_name_tells(name: str, plain: str):
    """Quantised copies are named after their model."""
    error = refusal(None, {**LLAMA, "quantization_config": {"quant_method": "x"}}, replace(WANTED, name=name))

    assert f"probably {plain};" in error.hint


def test_plain_weights_pass(tmp_path: Path):
    """bf16 weights, and a head of the recipe's size: nothing to say, and as many parameters as the header has."""
    tensors: Tensors = {"model.embed.weight": ("BF16", (512, 64)), "score.weight": ("BF16", (5, 64))}
    about = check(write(tmp_path / "m", LLAMA, tensors), LLAMA, WANTED)

    assert About(512 * 64 + 5 * 64, True, ()) == about


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        ({"model_type": "bert", "max_position_embeddings": 512}, 512),
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "xlm-roberta", "max_position_embeddings": 514}, 512),
        ({"model_type": "distilbert", "max_position_embeddings": 512}, 512),
        ({"model_type": "gpt2", "n_positions": 1024, "n_ctx": 1024}, 1024),
        ({"model_type": "opt", "max_position_embeddings": 2048}, 2048),
        ({"model_type": "bart", "max_position_embeddings": 1024}, 1024),
        ({"model_type": "deberta", "max_position_embeddings": 512}, 512),
        ({"model_type": "electra", "max_position_embeddings": 512}, 512),
        ({"model_type": "albert"}, 512),
    ],
)
def test_rows_longer_than_the_table_of_positions_are_refused(config: dict[str, Any], limit: int):
    """The first long row would end a rank, perhaps after hours; the message has both numbers and the value that works."""
    error = refusal(None, config, replace(WANTED, max_length=limit + 1))

    assert f"data.max_length {limit + 1} is more than the {limit} positions" in error.what
    assert f"set data.max_length={limit} or less" == error.hint
    check(None, config, replace(WANTED, max_length=limit))


def test_every_family_with_a_table_is_one_of_transformers():
    """A name with a slip in it would never be met."""
    names = _TABLE.keys() | _AFTER_PADDING

    assert set() == names - native("CONFIG_MAPPING_NAMES")


def test_deberta_v3_and_rotary_models_have_no_table():
    """DeBERTa v3 has relative positions alone; a rotary model computes positions."""
    assert positions.positions({"model_type": "deberta-v2", "position_biased_input": False}) is None
    assert positions.positions(LLAMA) is None


def test_padding_on_cards_counts():
    """A batch is padded to a multiple of 16 there: rows of 100 tokens would ask a table of 100 for 112."""
    table = {"model_type": "bert", "max_position_embeddings": 100}
    error = refusal(None, table, replace(WANTED, max_length=100, pads_to=16))

    assert "set data.max_length=96 or less" == error.hint
    check(None, table, replace(WANTED, max_length=96, pads_to=16))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "beyond the 512 positions that the model was trained on: longer"),
        (
            {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}},
            "its RoPE scaling (yarn) reaches to 2048",
        ),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "its RoPE scaling (dynamic) reaches to 2048"),
        (
            {
                "max_position_embeddings": 4096,
                "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 512},
            },
            "(llama3) reaches to 4096",
        ),
    ],
)
def test_rows_beyond_the_trained_length_are_noted(config: dict[str, Any], words: str):
    """A rotary model computes them, and badly: said, not refused."""
    (note,) = check(None, {**LLAMA, **config}, replace(WANTED, max_length=1024)).notes

    assert words in note


@pytest.mark.parametrize("name", ["score.weight", "classifier.weight", "classifier.out_proj.weight"])
def test_a_head_of_another_size_is_noted(tmp_path: Path, name: str):
    """The header tells, whatever config.json says of labels."""
    folder = write(tmp_path / "m", LLAMA, {name: ("F32", (3, 64))})

    (note,) = check(folder, LLAMA, WANTED).notes
    assert "has a head of 3 labels, the recipe 5: a new head is trained in its place" in note


def test_labels_in_another_order_are_noted(tmp_path: Path):
    """A head of the right size is kept; where it knows other names, its first predictions are of those."""
    config = {**LLAMA, "id2label": {"0": "negative", "1": "positive"}}
    folder = write(tmp_path / "m", config, {"score.weight": ("F32", (2, 64))})
    swapped = replace(WANTED, num_labels=2, label_names=("positive", "negative"))

    assert "knows its labels as negative, positive" in check(folder, config, swapped).notes[0]
    assert () == check(folder, config, replace(swapped, label_names=("Negative", "positive"))).notes


def not_a_model(folder: Path) -> LaunchError:
    with pytest.raises(LaunchError) as caught:
        require_model(folder)
    return caught.value


def test_an_adapter_is_no_model(tmp_path: Path):
    """Neither alone nor beside a config: both its model and the way to merge it are named."""
    folder = write(tmp_path / "a", None, None, adapter_config__json={"base_model_name_or_path": "org/base"})
    error = not_a_model(folder)

    assert "is an adapter of org/base, not a whole model" in error.what
    assert f"ascend-launch export {folder} --out FOLDER" in error.hint
    assert "name org/base as model.name" in error.hint


def test_a_run_directory_names_its_model(tmp_path: Path):
    """Directly, by the link `latest`, and by the folder of runs that the link is in."""
    run = write(tmp_path / "runs" / "x" / "20260101", None, None, plan__json={})
    write(run / "model", LLAMA, {})
    latest = run.parent / "latest"
    latest.symlink_to(run.name)

    for folder in (run, latest, run.parent):
        assert f"model.name={run.resolve() / 'model'}" == not_a_model(folder).hint
    require_model(run / "model")


def test_a_run_of_an_adapter_is_to_be_exported(tmp_path: Path):
    """Its model folder holds the adapter alone."""
    run = write(tmp_path / "r", None, None, plan__json={})
    write(run / "model", None, None, adapter_config__json={"base_model_name_or_path": "org/base"})

    assert f"ascend-launch export {run.resolve()} --out FOLDER" in not_a_model(run).hint
    assert f"ascend-launch export {run.resolve()} --out FOLDER" in not_a_model(run / "model").hint


def test_a_checkpoint_of_shards_never_starts_from_random_weights(tmp_path: Path):
    """It has a config.json and no weights that from_pretrained reads: a folder of a config alone gets random ones."""
    run = write(tmp_path / "r", None, None, plan__json={})
    folder = write(run / "checkpoints" / "checkpoint-20", LLAMA)
    (folder / "global_step20").mkdir()
    error = not_a_model(folder)

    assert "is a checkpoint of shards" in error.what
    assert f"ascend-launch export {run.resolve()} --checkpoint 20 --out FOLDER" in error.hint


@pytest.mark.parametrize(
    "name", ["consolidated.00.pth", "tf_model.h5", "flax_model.msgpack", "consolidated.safetensors"]
)
def test_weights_of_another_format_are_not_replaced_by_random_ones(tmp_path: Path, name: str):
    """Meta's, Mistral's, TensorFlow's and Flax's files beside a config.json."""
    folder = write(tmp_path / "m", LLAMA)
    (folder / name).touch()

    assert f"its weights ({name}) are in a format that is not read here" in not_a_model(folder).what


def test_a_gguf_file_beside_a_config_is_named(tmp_path: Path):
    """The key that reads it is the fix."""
    folder = write(tmp_path / "m", LLAMA)
    (folder / "m-Q8_0.gguf").touch()

    assert "model.gguf_file=m-Q8_0.gguf" in not_a_model(folder).hint


def test_a_config_alone_is_a_model(tmp_path: Path):
    """recipes/tiny is one: its weights are made from the config, which is said."""
    require_model(write(tmp_path / "m", LLAMA))


@pytest.mark.parametrize(
    ("config", "millions"),
    [
        (
            {
                "model_type": "distilbert",
                "dim": 768,
                "n_layers": 6,
                "hidden_dim": 3072,
                "vocab_size": 30522,
                "activation": "gelu",
            },
            66,
        ),
        (
            {
                "model_type": "bert",
                "hidden_size": 768,
                "num_hidden_layers": 12,
                "intermediate_size": 3072,
                "vocab_size": 30522,
                "hidden_act": "gelu",
            },
            109,
        ),
        ({"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "vocab_size": 50257}, 124),
        (
            {
                "model_type": "gemma2",
                "hidden_size": 2304,
                "num_hidden_layers": 26,
                "intermediate_size": 9216,
                "vocab_size": 256000,
                "hidden_act": "gelu_pytorch_tanh",
            },
            2614,
        ),
        (
            {
                "model_type": "mixtral",
                "hidden_size": 4096,
                "num_hidden_layers": 32,
                "intermediate_size": 14336,
                "num_local_experts": 8,
                "vocab_size": 32000,
                "hidden_act": "silu",
            },
            46703,
        ),
    ],
)
def test_the_size_of_a_family_without_a_memory_model_is_estimated(config: dict[str, Any], millions: int):
    """Against the published number of parameters: near enough to tell 66 million from 8 billion."""
    assert millions * 1e6 == pytest.approx(headers.estimate(config), rel=0.1)


def test_the_index_tells_the_size_of_weights_that_are_not_here(tmp_path: Path):
    """As total_parameters where transformers wrote it, else by bytes."""
    index = {"metadata": {"total_size": 2_000_000}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}
    folder = write(tmp_path / "m", {**LLAMA, "torch_dtype": "bfloat16"}, None, model__safetensors__index__json=index)

    assert 1_000_000 == check(folder, LLAMA, WANTED).num_parameters
