#!/usr/bin/env python3
"""Write down the installed transformers' TrainingArguments, for hosts that check a recipe without transformers.

Run by hand when tools/constraints.txt takes another transformers; tests/unit/test_training_fields.py compares.
"""

from __future__ import annotations

import json

from launcher.recipe import training_fields

rows = {
    name: {"types": sorted(field.types), "choices": list(field.choices)}
    for name, field in sorted(training_fields.fields().items())
}
training_fields.RECORDED.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
