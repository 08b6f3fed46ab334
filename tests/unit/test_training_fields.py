"""TrainingArguments' fields come from the installed source text, and match what importing it would say."""

from __future__ import annotations

import dataclasses
import json

from launcher.recipe import training_fields


def test_fields_are_those_of_the_class():
    """The names found in the text are the dataclass's own, neither fewer nor more."""
    from transformers import TrainingArguments

    assert {f.name for f in dataclasses.fields(TrainingArguments)} == set(training_fields.fields())


def test_every_default_fits_its_own_type():
    """A type read wrongly from the text would refuse the value the library itself uses."""
    from transformers import TrainingArguments

    wrong = {}
    for field in dataclasses.fields(TrainingArguments):
        default = field.default if field.default is not dataclasses.MISSING else None
        value = getattr(default, "value", default)
        if field.name not in training_fields.OWNED and value is not None:
            wrong[field.name] = training_fields.problem(field.name, value)

    assert {} == {name: said for name, said in wrong.items() if said}


def test_owned_fields_exist():
    """A reason for a field that transformers no longer has would never be read."""
    assert set() == set(training_fields.OWNED) - set(training_fields.fields())


def test_renamed_fields_are_gone():
    """A name that transformers still takes must not be called renamed."""
    assert set() == set(training_fields.RENAMED) & set(training_fields.fields())


def test_the_record_is_of_the_transformers_that_the_tests_run_with():
    """Where none is installed, a recipe is checked by it (tools/training_arguments.py writes it)."""
    rows = json.loads(training_fields.RECORDED.read_text())

    assert training_fields.fields() == {
        name: training_fields.Field(frozenset(row["types"]), tuple(row["choices"])) for name, row in rows.items()
    }
