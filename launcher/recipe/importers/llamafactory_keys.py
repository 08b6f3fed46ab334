"""LLaMA-Factory's keys: what becomes of each."""

from __future__ import annotations

from launcher.messages import Message

LEFT_OUT = {
    "template": "the tokenizer's own chat template is used",
    "overwrite_cache": "tokenised rows are kept by their content, so there is nothing stale to overwrite",
    "overwrite_output_dir": "every run has a directory of its own",
    "plot_loss": "every run keeps its events; nothing has to be asked for",
    "trust_remote_code": "code out of a model's folder is never run",
    **dict.fromkeys(
        ("quantization_method", "quantization_type", "double_quantization", "quantization_device_map"),
        "it has no effect without quantization_bit",
    ),
    **dict.fromkeys(
        ("freeze_trainable_layers", "freeze_trainable_modules", "freeze_extra_modules"),
        "it has no effect where finetuning_type is not freeze",
    ),
    "create_new_adapter": "it has no effect without adapter_name_or_path",
    "predict_with_generate": "labels are scored, not generated",
    "do_predict": "use `ascend-launch predict`",
    "do_eval": "a run trains and evaluates; `ascend-launch eval` evaluates alone",
    "compute_accuracy": "accuracy is always computed, over labels and not over tokens",
    "mask_history": "a row is one question and one answer",
    "streaming": "rows are tokenised once and read from disk",
    "include_num_input_tokens_seen": "tokens/s is always shown",
    "ddp_find_unused_parameters": "no model here has unused parameters",
    "use_unsloth": "it runs on GPUs only",
    "enable_liger_kernel": "it runs on GPUs only",
    "fsdp_config": "the launcher renders it; the strategy is kept",
}
CHAT_LEFT_OUT = {
    "compute_accuracy": "the accuracy over tokens is always computed",
    "template": "the tokenizer's own chat template is used; data.chat_template names another for a base model",
    "tool_format": "the chat template says how tools are written",
    "enable_thinking": "the chat template says where thinking stands; data.thinking trains empty blocks of it too",
    "preserve_thinking": "the chat template says which thinking stays",
    "mask_history": "its value is false",
}
"""Reasons of a task that writes, where they are others."""
CHAT_KEYS = frozenset(
    {
        "packing",
        "neat_packing",
        "mix_strategy",
        "interleave_probs",
        "mask_history",
        "train_on_prompt",
        "default_system",
        "enable_thinking",
        "tool_format",
    }
)
"""Keys that only such a task has a counterpart of."""
_QUANTIZED = "weights are not quantized for training here; without it LoRA trains beside bf16 or fp32 weights"
_OTHER_UPDATE = "another way to train than full and LoRA, which has no counterpart"
_OTHER_ROWS = "rows are neither packed nor mixed here: each has one label and counts once"
_OTHER_LOSS = "the loss is the answer's alone here"
_OTHER_MODEL = "the model is trained as its own files say"
REFUSED = {
    "adapter_name_or_path": Message(
        "training on from an adapter has no counterpart; merge it with `ascend-launch export` and name the result"
    ),
    "resume_from_checkpoint": Message(
        "checkpoints of LLaMA-Factory are not continued; a run of ascend-launch continues with --run-dir"
    ),
    **dict.fromkeys(("quantization_bit", "fp8"), _QUANTIZED),
    **dict.fromkeys(
        [
            "use_galore",
            "use_apollo",
            "use_badam",
            "use_muon",
            "use_adam_mini",
            "use_llama_pro",
            "use_oft",
            "use_dft_loss",
            "use_asft_loss",
            "use_eaft_loss",
            "pissa_init",
            "loraplus_lr_ratio",
            "pure_bf16",
            "use_kt",
        ],
        _OTHER_UPDATE,
    ),
    "tokenized_path": Message("rows are read from the data, and their tokens are kept by what they depend on"),
    "disable_shuffling": Message("rows are shuffled before every epoch here"),
    **dict.fromkeys(["packing", "neat_packing", "mix_strategy", "interleave_probs", "mask_history"], _OTHER_ROWS),
    **dict.fromkeys(("train_on_prompt", "moe_aux_loss_coef"), _OTHER_LOSS),
    **dict.fromkeys(
        [
            "rope_scaling",
            "shift_attn",
            "mixture_of_depths",
            "resize_vocab",
            "add_tokens",
            "new_special_tokens",
            "add_special_tokens",
            "split_special_tokens",
            "upcast_layernorm",
            "upcast_lmhead_output",
            "default_system",
            "enable_thinking",
            "tool_format",
            "train_from_scratch",
        ],
        _OTHER_MODEL,
    ),
}
"""Keys that change what is learned and have no counterpart, with the reason, unless they are off."""
AS_HERE = {"mix_strategy": "concat", "enable_thinking": True}
"""Of those keys, the values that change nothing by themselves."""
TAKEN = frozenset({"stage", "do_train", "finetuning_type"})
"""Read, and said by the recipe as a whole."""
ENTRY = frozenset({"file_name", "hf_hub_url", "subset", "split", "columns", "formatting", "ranking", "tags"})
"""What is read of an entry of dataset_info.json."""
LORA = {"lora_dropout": "lora_dropout", "use_rslora": "use_rslora", "use_dora": "use_dora"}
ATTENTION = {"fa2": "flash_attention_2", "sdpa": "sdpa", "disabled": "eager"}
GENERATION = {
    "max_new_tokens": 1024,
    "do_sample": True,
    "temperature": 0.95,
    "top_k": 50,
    "top_p": 0.7,
    "num_beams": 1,
    "length_penalty": 1.0,
    "repetition_penalty": 1.0,
}
"""How texts are written, with what it is where a file says nothing."""
OF_DRAWS = ("temperature", "top_k", "top_p")
"""Of those, the ones for drawing tokens."""
