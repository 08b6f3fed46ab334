"""The families whose parameters can be listed, by model_type. A new one is a row here, and a file where its plan is new."""

from __future__ import annotations

from collections.abc import Mapping

from launcher.models.families import bert, decoder, experts, modernbert
from launcher.models.families.base import Family

TABLE: Mapping[str, Family] = {
    "llama": decoder.LLAMA,
    "mistral": decoder.MISTRAL,
    "qwen2": decoder.QWEN2,
    "qwen3": decoder.QWEN3,
    "smollm3": decoder.SMOLLM3,
    "internlm3": decoder.INTERNLM3,
    "phi3": decoder.PHI3,
    "glm4": decoder.GLM4,
    "gemma": decoder.GEMMA,
    "gemma2": decoder.GEMMA2,
    "gemma3_text": decoder.GEMMA3,
    "mixtral": experts.MIXTRAL,
    "qwen3_moe": experts.QWEN3_MOE,
    "gpt_oss": experts.GPT_OSS,
    "deepseek_v2": experts.DEEPSEEK_V2,
    "deepseek_v3": experts.DEEPSEEK_V3,
    "bert": bert.BERT,
    "roberta": bert.ROBERTA,
    "xlm-roberta": bert.ROBERTA,
    "deberta-v2": bert.DEBERTA,
    "distilbert": bert.DISTILBERT,
    "modernbert": modernbert.MODERNBERT,
}
