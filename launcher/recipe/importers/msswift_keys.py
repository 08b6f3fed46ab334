"""ms-swift's arguments: what becomes of each. What it assumes is in its swift/arguments and swift/trainers (release 4.6.0)."""

from __future__ import annotations

from launcher.messages import Message

_OTHER_UPDATE = Message("another way to train than full and LoRA, which has no counterpart")
_PARTLY = Message("a part of the model stays frozen, which has no counterpart")
_OTHER_LOSS = Message("another loss than the mean over the trained tokens")
_OTHER_MODEL = Message("the model is trained as its own files say")
_QUANTIZED = Message("weights are not quantized for training here; without it LoRA trains beside bf16 or fp32 weights")
_MEDIA = Message("it is for models that see or hear, and a recipe trains on text")
_PLUGIN = Message("code of yours that ms-swift loads")
_OTHER_ROWS = Message("rows that are drawn or cached by ms-swift itself")
_CONTINUES = Message(
    "training on from an adapter or checkpoint of ms-swift has no counterpart; merge it and name the result"
)

REFUSED = {
    **dict.fromkeys(("quant_method", "quant_bits"), _QUANTIZED),
    **dict.fromkeys(
        (
            "use_galore",
            "lisa_activated_layers",
            "lorap_lr_ratio",
            "use_swift_lora",
            "optimizer",
            "target_parameters",
            "lora_dtype",
        ),
        _OTHER_UPDATE,
    ),
    **dict.fromkeys(
        (
            "freeze_parameters",
            "freeze_parameters_regex",
            "freeze_parameters_ratio",
            "trainable_parameters",
            "trainable_parameters_regex",
        ),
        _PARTLY,
    ),
    **dict.fromkeys(("enable_dft_loss", "loss_type", "router_aux_loss_coef"), _OTHER_LOSS),
    **dict.fromkeys(
        ("rope_scaling", "max_model_len", "new_special_tokens", "init_strategy", "model_kwargs"), _OTHER_MODEL
    ),
    **dict.fromkeys(
        (
            "freeze_llm",
            "freeze_vit",
            "freeze_aligner",
            "vit_lr",
            "aligner_lr",
            "vit_gradient_checkpointing",
            "max_pixels",
            "norm_bbox",
        ),
        _MEDIA,
    ),
    **dict.fromkeys(("external_plugins", "custom_register_path", "callbacks"), _PLUGIN),
    **dict.fromkeys(
        (
            "interleave_prob",
            "cached_dataset",
            "cached_val_dataset",
            "custom_dataset_info",
            "disable_auto_column_mapping",
            "decision_drop_instructions",
            "decision_shuffle_fields",
            "decision_state_as_text",
            "decision_subsample_options",
        ),
        _OTHER_ROWS,
    ),
    "use_ray": Message("ray starts the ranks"),
    **dict.fromkeys(("adapters", "resume_from_checkpoint", "load_args"), _CONTINUES),
    "tuner_backend": Message("unsloth runs on GPUs only"),
    "dataset_shuffle": Message("rows are shuffled before every epoch here"),
    "train_dataloader_shuffle": Message("rows are shuffled before every epoch here"),
    "init_weights": Message("LoRA starts from peft's own weights here"),
    "agent_template": Message("the chat template says how tools are written"),
    "response_prefix": Message("the chat template says how an answer begins"),
    "enable_thinking": Message("the chat template says where thinking stands"),
    "preserve_thinking": Message("the chat template says which thinking stays"),
    "disable_ignore_empty_think": Message("write data.thinking: true for it in the recipe"),
    "mrl_dims": _OTHER_LOSS,
    "padding_side": Message("it is right here, as by default there"),
    "deepspeed_autotp_size": Message("the launcher has no tensor parallelism"),
}
"""Arguments that change what is learned and have no counterpart, with the reason, unless they are off."""
AS_HERE = {
    "tuner_backend": "peft",
    "dataset_shuffle": True,
    "train_dataloader_shuffle": True,
    "init_weights": True,
    "padding_side": "right",
    "preserve_thinking": True,
}
"""Of those, the values that change nothing by themselves."""
OFF_REFUSED = ("dataset_shuffle", "train_dataloader_shuffle", "init_weights")
"""Of those, the ones whose being off changes something."""
_LOGGED = Message("it changes what is logged, and nothing that is learned")
_TOKENS = Message("rows are prepared once, before ranks start, and kept by what they depend on")
_FASTER = Message("it changes speed or memory, and nothing that is learned")
_ONLY_GENERATES = Message("add `generation:` to the recipe for texts in evaluations, with settings of its own")
LEFT_OUT = {
    "template": Message("the tokenizer's own chat template is used; data.chat_template names another for a base model"),
    "model_type": Message("the model's config.json says it"),
    "model_name": Message("it has no effect without the data set swift/self-cognition"),
    "model_author": Message("it has no effect without the data set swift/self-cognition"),
    "add_non_thinking_prefix": Message("the chat template says where thinking stands"),
    "strict": Message("rows that cannot be read are reported before the ranks start"),
    "remove_unused_columns": Message("columns that the format does not name are not read"),
    "use_liger_kernel": Message("it runs on GPUs only"),
    "experts_impl": _FASTER,
    "padding_free": Message("padding changes nothing that is learned; data.packing avoids most of it"),
    "fsdp_config": Message("the launcher renders it; the strategy is kept"),
    "zero_hpz_partition_size": _FASTER,
    "ds3_gather_for_generation": _FASTER,
    "use_logits_to_keep": _FASTER,
    "use_flash_ckpt": _FASTER,
    "template_backend": Message("training has one way to render there too"),
    "local_repo_path": Message("the model is what transformers makes of its config.json"),
    "resume_only_model": Message("it has no effect without resume_from_checkpoint"),
    "num_labels": Message("it has no effect without task_type"),
    "problem_type": Message("it has no effect without task_type"),
    "device_map": Message("the strategy says where the model's parts are"),
    "max_memory": Message("the strategy says where the model's parts are"),
    "packing_num_proc": _FASTER,
    "packing_strategy": Message("which rows meet in a sequence; best fit here"),
    "ddp_find_unused_parameters": Message("no model here has unused parameters"),
    "save_safetensors": Message("weights are always saved as safetensors"),
    "max_shard_size": Message("weights are saved as safetensors, in files that transformers reads"),
    "safe_serialization": Message("weights are always saved as safetensors"),
    "use_cpu": Message("say --device cpu"),
    "add_version": Message("every run has a directory of its own"),
    "create_checkpoint_symlink": Message("the final and the best model have fixed names in a run directory"),
    "check_model": Message("`ascend-launch doctor` checks a model's files"),
    "hub_token": Message("export HF_TOKEN or MODELSCOPE_API_TOKEN: a recipe holds no secret"),
    **dict.fromkeys(
        (
            "load_from_cache_file",
            "lazy_tokenize",
            "dataset_num_proc",
            "download_mode",
            "streaming",
            "shuffle_buffer_size",
        ),
        _TOKENS,
    ),
    **dict.fromkeys(("logging_dir", "enable_channel_loss", "acc_strategy", "logging_first_step"), _LOGGED),
    **dict.fromkeys(
        (
            "eval_use_evalscope",
            "eval_dataset",
            "eval_dataset_args",
            "eval_generation_config",
            "extra_eval_args",
            "eval_limit",
            "eval_metric",
            "stop_words",
            "stream",
            "logprobs",
            "top_logprobs",
            "structured_outputs_regex",
        ),
        _ONLY_GENERATES,
    ),
    **dict.fromkeys(
        ("bnb_4bit_compute_dtype", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant", "bnb_4bit_quant_storage"),
        Message("it has no effect without quant_bits"),
    ),
    "stopping_strategy": Message("it has no effect without interleave_prob"),
    "data_seed": Message("which rows meet: rows are drawn by training.seed and data.train.seed here"),
    "val_dataset_shuffle": Message("evaluation adds up all rows, in any order"),
    "ignore_args_error": Message("every key is reported here"),
    "is_binary_loss_scale": Message("the loss is over trained tokens alone"),
    "load_data_args": Message("it has no effect without load_args"),
    "enable_npu_model_patch": Message("model.kernels names fused operators for NPUs"),
}
WITHOUT_EFFECT = (
    "adalora_",
    "adapter_",
    "boft_",
    "fourier_",
    "galore_",
    "hqq_",
    "lisa_",
    "llamapro_",
    "lora_ga_",
    "reft_",
    "vera_",
)
"""How arguments begin that do nothing for full and LoRA."""
TRACKED = ("swanlab_",)
"""How arguments begin that change what is logged."""
VARIABLES = (
    "ASCEND_",
    "CELOSS_",
    "CUDA_",
    "HCCL_",
    "HF_",
    "MASTER_",
    "MODELSCOPE_",
    "NCCL_",
    "NODE_RANK",
    "NNODES",
    "NPROC_PER_NODE",
    "OMP_",
    "PYTORCH_",
    "SWANLAB_",
    "TENSORBOARD_",
    "TOKENIZERS_",
    "TORCH_",
    "USE_HF",
    "WANDB_",
)
"""How variables begin that change nothing of what is learned. ms-swift reads parts of its models' settings from others."""
KINDS_OF: dict[str, tuple[str, ...]] = {
    Message("text"): (
        "model",
        "model_revision",
        "output_dir",
        "attn_impl",
        "torch_dtype",
        "tuner_type",
        "train_type",
        "sft_type",
        "task_type",
        "loss_scale",
        "truncation_strategy",
        "lr_scheduler_type",
        "optim",
        "target_regex",
    ),
    Message("a name, true or false"): ("save_strategy", "eval_strategy"),
    Message("a number"): ("max_epochs", "num_train_epochs", "save_total_limit"),
}
"""What the value of a key must be, where the import looks into it."""
ATTENTION = {
    "sdpa": "sdpa",
    "eager": "eager",
    "flash_attn": "flash_attention_2",
    "flash_attention_2": "flash_attention_2",
}
TOO_LONG = {"delete": "drop", "right": "cut", "split": "split"}
TRAIN_ON = {"default": "answers", "last_round": "last", "all": "all"}
LORA = {"lora_bias": ("bias", None), "use_rslora": ("use_rslora", None), "use_dora": ("use_dora", None)}
PRECISION = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp16"}
"""ms-swift trains fp32 weights with fp16 too, unless fp16 is false."""
LENGTHS = (
    "seq_length",
    "max_position_embeddings",
    "n_positions",
    "model_max_length",
    "seq_len",
    "max_seq_len",
    "max_sequence_length",
    "max_seq_length",
)
"""Keys of a config.json that limit a row, of which the smallest does."""
QUERY = ("query", "prompt", "input", "instruction", "question", "problem")
RESPONSE = (
    "response",
    "answer",
    "output",
    "targets",
    "target",
    "answer_key",
    "answers",
    "solution",
    "text",
    "completion",
    "content",
)
"""Columns that are taken for the question and the answer, whatever their order."""
