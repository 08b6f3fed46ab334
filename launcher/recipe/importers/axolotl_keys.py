"""axolotl's keys: what becomes of each. What it assumes is in its utils/schemas and core/builders (release 0.19.0)."""

from __future__ import annotations

from launcher.messages import Message

_OTHER_UPDATE = Message("another way to train than full and LoRA, which has no counterpart")
_OTHER_LOSS = Message("another loss than the mean over the trained tokens")
_OTHER_MODEL = Message("the model is trained as its own files say")
_OTHER_ROWS = Message("rows that are drawn, joined or shortened in a way that has no counterpart")
_QUANTIZED = Message("weights are not quantized for training here; without it LoRA trains beside bf16 or fp32 weights")
_MEDIA = Message("it is for models that see or hear, and a recipe trains on text")
_OTHER_RATE = Message("a learning rate of its own, which has no counterpart")
_PREFERENCES = Message("preferences and rewards have no counterpart")

REFUSED = {
    **dict.fromkeys(
        (
            "load_in_8bit",
            "load_in_4bit",
            "gptq",
            "fp8",
            "qat",
            "quantization",
            "quantize_moe_experts",
            "use_onebitllms",
        ),
        _QUANTIZED,
    ),
    "model_quantization_config": _QUANTIZED,
    **dict.fromkeys(("rl", "reward_model", "process_reward_model", "ebft", "num_labels", "diffusion"), _PREFERENCES),
    **dict.fromkeys(
        (
            "relora",
            "lisa_step_interval",
            "jagged_restart_steps",
            "unfrozen_parameters",
            "lora_target_parameters",
            "lora_rank_pattern",
            "lora_alpha_pattern",
            "loraplus_lr_ratio",
            "peft_layers_to_transform",
            "peft_layers_pattern",
            "peft_layer_replication",
            "peft_init_lora_weights",
            "peft_trainable_token_indices",
            "peft",
            "trainer_cls",
            "optim_target_modules",
        ),
        _OTHER_UPDATE,
    ),
    **dict.fromkeys(("use_eaft", "scaling_softmax"), _OTHER_LOSS),
    **dict.fromkeys(
        (
            "rope_scaling",
            "overrides_of_model_config",
            "model_config",
            "overrides_of_model_kwargs",
            "reinit_weights",
            "resize_token_embeddings_to_32x",
            "shrink_embeddings",
            "tokens",
            "added_tokens_overrides",
            "fix_untrained_tokens",
            "base_model_config",
            "cls_model_config",
            "tokenizer_use_mistral_common",
            "chat_template_kwargs",
            "s2_attention",
        ),
        _OTHER_MODEL,
    ),
    **dict.fromkeys(("processor_type", "image_size", "freeze_mm_modules", "role_boundaries", "is_multimodal"), _MEDIA),
    **dict.fromkeys(
        (
            "pretraining_dataset",
            "curriculum_sampling",
            "dataset_exact_deduplication",
            "dataset_shard_num",
            "use_pose",
            "pretraining_sample_concatenation",
            "skip_prepare_dataset",
        ),
        _OTHER_ROWS,
    ),
    **dict.fromkeys(
        (
            "embedding_lr",
            "embedding_lr_scale",
            "lr_groups",
            "lr_quadratic_warmup",
            "cosine_constant_lr_ratio",
            "lr_div_factor",
        ),
        _OTHER_RATE,
    ),
    "lora_model_dir": Message(
        "training on from an adapter has no counterpart; merge it with `ascend-launch export` and name the result"
    ),
    "resume_from_checkpoint": Message(
        "checkpoints of axolotl are not continued; a run of ascend-launch continues with --run-dir"
    ),
    "default_system_message": Message(
        "the chat template says it; data.system is for all rows that have no system message"
    ),
    "use_ray": Message("ray starts the ranks"),
}
"""Keys that change what is learned and have no counterpart, with the reason, unless they are off."""
AS_HERE = {"peft_init_lora_weights": True}
"""Of those, the values that change nothing by themselves."""
_FASTER = Message("it changes speed or memory, and nothing that is learned")
_LOGGED = Message("it changes what is logged, and nothing that is learned")
_UPLOADED = Message("an upload that fails would end the run; afterwards: hf upload ORG/NAME RUN/model")
_TRUSTED = Message("code out of a model's folder is never run")
_KNOWN = Message("the model's own files say it")
_PREPARED = Message("rows are prepared once, before ranks start, and kept by what they depend on")
_RENDERED = Message("the launcher renders it; the strategy is kept")
LEFT_OUT = {
    **dict.fromkeys(("trust_remote_code",), _TRUSTED),
    **dict.fromkeys(
        (
            "model_type",
            "tokenizer_type",
            "type_of_model",
            "tokenizer_legacy",
            "tokenizer_use_fast",
            "tokenizer_save_jinja_files",
        ),
        _KNOWN,
    ),
    **dict.fromkeys(
        (
            "dataset_prepared_path",
            "dataset_processes",
            "dataset_num_proc",
            "dataset_keep_in_memory",
            "streaming",
            "streaming_multipack_buffer_size",
            "preprocess_iterable",
            "num_dataset_shards_to_save",
        ),
        _PREPARED,
    ),
    **dict.fromkeys(
        ("push_dataset_to_hub", "hf_use_auth_token", "hub_model_id", "hub_strategy", "hub_revision"), _UPLOADED
    ),
    **dict.fromkeys(
        ("fsdp_config", "fsdp_version", "fsdp_final_state_dict_type", "dp_shard_size", "dp_replicate_size"), _RENDERED
    ),
    **dict.fromkeys(
        (
            "activation_offloading",
            "layer_offloading",
            "selective_checkpointing",
            "chunked_cross_entropy",
            "cut_cross_entropy",
            "tiled_mlp",
            "torch_compile",
            "low_cpu_mem_usage",
            "experimental_skip_move_to_device",
            "gpu_memory_limit",
            "max_memory",
            "device_map",
            "flash_attn_cross_entropy",
            "flash_attn_fuse_mlp",
            "flash_attn_rms_norm",
            "flash_optimum",
            "fused_attn_kernel",
            "lora_mlp_kernel",
            "lora_qkv_kernel",
            "lora_o_kernel",
            "lora_embedding_kernel",
            "lora_on_cpu",
            "use_kernels",
            "experts_implementation",
            "deepcompile",
            "ddp",
            "ddp_broadcast_buffers",
            "pad_to_sequence_len",
            "pad_to_multiple_of",
            "expert_parallel_size",
            "ddp_find_unused_parameters",
            "gc_steps",
            "gc_collect_steps",
        ),
        _FASTER,
    ),
    **dict.fromkeys(
        (
            "include_tkps",
            "include_tokens_per_second",
            "profiler_steps",
            "eval_table_size",
            "eval_max_new_tokens",
            "do_bench_eval",
            "do_causal_lm_eval",
            "eval_causal_lm_metrics",
            "generate_samples",
            "debug",
            "use_tensorboard",
            "loss_watchdog_threshold",
            "loss_watchdog_patience",
            "strict",
        ),
        _LOGGED,
    ),
    **dict.fromkeys(
        ("lora_fan_in_fan_out", "gptq_groupsize", "gptq_model_v1", "torchdistx_path", "bnb_config_kwargs"),
        Message("it does nothing for full and LoRA"),
    ),
    "tf32": Message("it exists on GPUs only"),
    "model_quantization_config_kwargs": Message("it has no effect without model_quantization_config"),
    "remove_unused_columns": Message("columns that the format does not name are not read"),
    "shuffle_merged_datasets": Message("rows are shuffled before every epoch"),
    "shuffle_before_merging_datasets": Message("rows are shuffled before every epoch"),
    "sample_packing_sequentially": Message("which rows meet in a sequence; best fit here"),
    "sample_packing_group_size": Message("which rows meet in a sequence; best fit here"),
    "sample_packing_bin_size": Message("which rows meet in a sequence; best fit here"),
    "sample_packing_eff_est": Message("sequences are counted, not estimated"),
    "total_num_tokens": Message("tokens are counted"),
    "multipack_real_batches": Message("how sequences lie in memory"),
    "eval_sample_packing": Message("evaluation adds up all rows, packed or not"),
    "max_packed_sequence_len": Message("sequence_len says it"),
    "eval_sequence_len": Message("rows that are evaluated have the length of those that are trained"),
    "auto_resume_from_checkpoints": Message(
        "launch again with --run-dir RUN: it goes on from its newest whole checkpoint"
    ),
    "save_safetensors": Message("weights are always saved as safetensors"),
    "save_first_step": Message("training.save_steps says it"),
    "auto_find_batch_size": Message("the plan says whether the batch fits"),
    "device": Message("say --device"),
    "local_rank": Message("it comes from the launcher"),
    "world_size": Message("it comes from the launcher"),
    "accelerator_config": Message("the launcher decides how rows are dispatched, since metrics depend on it"),
    "float16": Message("bf16 and fp16 say the precision"),
    "bfloat16": Message("bf16 and fp16 say the precision"),
    "ddp_timeout": Message("--hang-timeout says how long a rank is waited for"),
    "eot_tokens": Message("the token that ends a turn in the chat template is always trained"),
    "loraplus_lr_embedding": Message("it has no effect without loraplus_lr_ratio"),
    "merge_lora": Message("`ascend-launch export` merges"),
}
PREFIXES = {
    "wandb_": Message("training.report_to: wandb, and the variables of wandb, say it"),
    "mlflow_": _LOGGED,
    "comet_": _LOGGED,
    "trackio_": _LOGGED,
    "swanlab_": _LOGGED,
    "use_wandb": _LOGGED,
    "use_mlflow": _LOGGED,
    "use_comet": _LOGGED,
    "use_trackio": _LOGGED,
    "use_swanlab": _LOGGED,
    "use_otel_": _LOGGED,
    "liger_": Message("fused operators, which change the last digits"),
    "flex_attn_": _FASTER,
    "use_scattermoe": _FASTER,
    "use_sonicmoe": _FASTER,
    "generation_": _LOGGED,
    "dion_": Message("it does nothing with this optimizer"),
    "qgalore_": Message("it does nothing with this optimizer"),
    "rl_": Message("it has no effect without rl"),
    "dpo_": Message("it has no effect without rl"),
    "fp8_": Message("it has no effect without fp8"),
    "ray_": Message("it has no effect without use_ray"),
}
"""Reasons for keys by how they begin."""
PLUGINS = ("CutCrossEntropyPlugin", "LigerPlugin", "KernelsPlugin", "ExpertParallelPlugin", "SwanLabPlugin")
"""Plugins that change speed or what is logged."""
PARALLEL = ("context_parallel_size", "sequence_parallel_degree", "tensor_parallel_size")
"""Keys by which ranks share rows, so that fewer rows make a batch."""
KINDS_OF: dict[str, tuple[str, ...]] = {
    Message("text"): (
        "base_model",
        "revision_of_model",
        "tokenizer_config",
        "output_dir",
        "attn_implementation",
        "optimizer",
        "lr_scheduler",
        "adapter",
        "chat_template",
        "chat_template_jinja",
        "excess_length_strategy",
    ),
    Message("a name, true or false"): ("save_strategy", "eval_strategy", "evaluation_strategy", "bf16", "fp16"),
    Message("a number"): ("num_epochs", "save_total_limit"),
    Message("a mapping"): ("special_tokens",),
    Message("a list of texts"): ("plugins",),
    Message("text or a list of texts"): ("lora_target_modules", "lora_modules_to_save"),
}
"""What the value of a key must be, where the import looks into it."""
SET_KINDS: dict[str, tuple[str, ...]] = {
    Message("text"): (
        "type",
        "ds_type",
        "name",
        "split",
        "revision",
        "field",
        "field_messages",
        "field_tools",
        "message_field_role",
        "message_field_content",
        "message_field_training",
        "train_on_eos",
        "train_on_eot",
        "chat_template",
        "chat_template_jinja",
        "field_thinking",
        "template_thinking_key",
    ),
    Message("text or a list of texts"): ("data_files",),
    Message("a list of texts"): ("roles_to_train",),
    Message("a mapping of texts"): ("message_property_mappings",),
    Message("a mapping of lists of texts"): ("roles",),
}
"""The same of a data set."""
ATTENTION = {
    "flash_attention_2": "flash_attention_2",
    "sdpa": "sdpa",
    "eager": "eager",
}
SWITCHES = {"flash_attention": "flash_attention_2", "sdp_attention": "sdpa", "eager_attention": "eager"}
"""Older switches for the same."""
MOVED = {
    "learning_rate": "learning_rate",
    "num_epochs": "num_train_epochs",
    "max_steps": "max_steps",
    "adam_epsilon": "adam_epsilon",
    "lr_scheduler_kwargs": "lr_scheduler_kwargs",
    "optim_args": "optim_args",
    "neftune_noise_alpha": "neftune_noise_alpha",
    "noisy_embedding_alpha": "neftune_noise_alpha",
}
LORA = {
    "peft_use_rslora": "use_rslora",
    "peft_use_dora": "use_dora",
    "lora_modules_to_save": "modules_to_save",
}
SET = frozenset(
    {
        "path",
        "type",
        "ds_type",
        "data_files",
        "name",
        "split",
        "revision",
        "field",
        "field_messages",
        "field_tools",
        "message_field_role",
        "message_field_content",
        "message_property_mappings",
        "message_field_training",
        "roles",
        "roles_to_train",
        "train_on_eos",
        "train_on_eot",
        "chat_template",
        "chat_template_jinja",
        "trust_remote_code",
        "preprocess_shards",
        "field_thinking",
        "template_thinking_key",
        "drop_system_message",
        "split_thinking",
    }
)
"""What is read of a data set; any other key is refused."""
