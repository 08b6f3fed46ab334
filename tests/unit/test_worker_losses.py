"""Losses equal torch's and their papers', however rows are shared out; a function that is no sum is refused."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor
from torch.nn import functional

from launcher import plugins
from launcher.errors import LaunchError
from launcher.models import chunks
from launcher.recipe.load import load
from launcher.recipe.schema import Loss as LossSpec
from launcher.recipe.schema import Model, RecipeSpec
from launcher.rundir.prepared import SplitFacts
from launcher.worker.losses import table
from launcher.worker.losses.base import Loss, Settings
from launcher.worker.losses.check import batch, problem_of
from launcher.worker.losses.class_weights import balanced, class_weights, note
from launcher.worker.losses.cross_entropy import CrossEntropy
from launcher.worker.losses.focal import Focal
from launcher.worker.losses.users import Users
from launcher.worker.losses.weights import LabelWeights
from launcher.worker.tasks.projection import Projection

DRAW = torch.Generator().manual_seed(3)
LOGITS = 3 * torch.randn(24, 5, generator=DRAW)
LABELS = torch.randint(5, (24,), generator=DRAW)
SEVERAL = torch.randint(2, (24, 5), generator=DRAW)
WEIGHTS = (0.2, 1.0, 3.7, 0.0, 1.9)
SPLITS = ([24], [8, 8, 8], [1] * 24, [5, 11, 1, 7])


def facts(*counts: int, rows: int | None = None) -> SplitFacts:
    return SplitFacts("", sum(counts) if rows is None else rows, 0, 0, 0, 0, counts)


def mean(loss: Loss, targets: Tensor, sizes: list[int]) -> tuple[Tensor, Tensor]:
    """Of a step in micro batches of these sizes: the sum of all losses by the sum of all counts, and its gradient."""
    logits = LOGITS.clone().requires_grad_()
    parts = list(zip(logits.split(sizes), targets.split(sizes), strict=True))
    total = sum(loss.count(wanted) for _, wanted in parts)
    value = sum(loss(part, wanted).sum() / total for part, wanted in parts)
    (gradient,) = torch.autograd.grad(value, logits)
    return value.detach(), gradient


@pytest.mark.parametrize("sizes", SPLITS, ids=str)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_cross_entropy_is_torchs_of_all_rows_at_once(sizes, smoothing, weights):
    """With class weights, label smoothing and both: mean and gradient, whatever the micro batches."""
    given = None if weights is None else torch.tensor(weights)
    logits = LOGITS.clone().requires_grad_()
    expected = functional.cross_entropy(logits, LABELS, weight=given, label_smoothing=smoothing)
    expected.backward()

    loss = CrossEntropy(Settings(smoothing=smoothing, weights=weights and LabelWeights(weights)))
    value, gradient = mean(loss, LABELS, sizes)

    torch.testing.assert_close(value, expected.detach(), rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, logits.grad, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("sizes", SPLITS, ids=str)
def test_several_labels_a_row_have_torchs_binary_cross_entropy(sizes):
    """A class weight is its pos_weight, and rows are counted."""
    expected = functional.binary_cross_entropy_with_logits(LOGITS, SEVERAL.float(), pos_weight=torch.tensor(WEIGHTS))

    loss = CrossEntropy(Settings(weights=LabelWeights(WEIGHTS), has_many_labels=True))

    torch.testing.assert_close(mean(loss, SEVERAL, sizes)[0], expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("gamma", [0.5, 2.0, 5])
def test_focal_loss_is_the_papers(gamma):
    """Equation 5 of Lin et al. in float64: -alpha (1 - p)^gamma log p, divided by the sum of alpha."""
    p = torch.softmax(LOGITS.double(), -1).gather(-1, LABELS[:, None])[:, 0]
    alpha = torch.tensor(WEIGHTS, dtype=torch.float64)[LABELS]
    expected = (-alpha * (1 - p) ** gamma * p.log()).sum() / alpha.sum()

    loss = Focal(Settings(parameters={"gamma": gamma}, weights=LabelWeights(WEIGHTS)))

    torch.testing.assert_close(mean(loss, LABELS, [24])[0].double(), expected, rtol=1e-6, atol=0)


def test_focal_loss_of_several_labels_is_the_papers_over_sigmoids():
    p = torch.where(SEVERAL.bool(), torch.sigmoid(LOGITS.double()), 1 - torch.sigmoid(LOGITS.double()))
    expected = (-((1 - p) ** 2) * p.log()).mean()

    torch.testing.assert_close(
        mean(Focal(Settings(has_many_labels=True)), SEVERAL, [10, 14])[0].double(), expected, rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("has_many_labels", [False, True])
def test_a_gamma_of_zero_is_cross_entropy(has_many_labels):
    targets = SEVERAL if has_many_labels else LABELS
    values = [
        mean(kind(Settings({"gamma": 0}, has_many_labels=has_many_labels)), targets, [24])
        for kind in (CrossEntropy, Focal)
    ]

    torch.testing.assert_close(values[0], values[1], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("gamma", [0.5, 2])
def test_a_certain_row_has_a_finite_gradient(gamma):
    """Where p rounds to 1, a power below 1 of 1 - p has an infinite slope."""
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    Focal(Settings({"gamma": gamma}))(logits, torch.tensor([0])).sum().backward()

    assert [[0.0, 0.0]] == logits.grad.tolist()


@pytest.mark.parametrize("kind", [CrossEntropy, Focal])
def test_an_evaluation_knows_neither_weights_nor_smoothing(kind):
    """So that the losses of two recipes can be compared, and each row counts once."""
    with_all = kind(Settings(smoothing=0.1, weights=LabelWeights(WEIGHTS)))

    assert kind(Settings()).of_rows(LOGITS, LABELS).tolist() == with_all.of_rows(LOGITS, LABELS).tolist()


def test_balanced_weights_are_scikit_learns():
    labels = np.array([0] * 7 + [1] * 2 + [2] * 31)
    expected = compute_class_weight("balanced", classes=np.unique(labels), y=labels)

    assert tuple(expected) == pytest.approx(balanced(np.bincount(labels).tolist()))


def test_a_label_that_never_occurs_changes_nothing_of_the_others():
    first, absent, last = balanced([10, 0, 30])

    assert (balanced([10, 30]), 1.0) == ((first, last), absent)


def recipe(weights: Any) -> RecipeSpec:
    return RecipeSpec(model=Model(name="m", class_weights=weights))


def test_weights_come_by_name_by_place_or_from_the_rows():
    """A label that a mapping leaves out counts 1. Where nothing is trained there are none."""
    names = ("bad", "good")

    assert (1.0, 2.5) == class_weights(recipe({"good": 2.5}), names, facts(3, 1))
    assert (0.5, 4.0) == class_weights(recipe((0.5, 4.0)), names, facts(3, 1))
    assert (4 / 6, 2.0) == class_weights(recipe("balanced"), names, facts(3, 1))
    assert class_weights(recipe("balanced"), names, None) is None
    assert ("class weights: bad 0.6667, good 2",) == note((4 / 6, 2.0), names)


@pytest.mark.parametrize(
    ("weights", "said"),
    [({"goood": 2.0}, "'goood' is none of the labels bad, good"), ((1.0, 1.0, 1.0), "3 weights for 2 labels")],
)
def test_weights_of_other_labels_are_refused(weights, said):
    """Names and numbers of labels that the data alone has are known only there."""
    with pytest.raises(LaunchError, match=said):
        class_weights(recipe(weights), ("bad", "good"), facts(3, 1))


def total(logits: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(logits, targets, reduction="sum")


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (total, None),
        (functional.cross_entropy, "for two equal rows"),
        (lambda logits, targets: functional.cross_entropy(logits, targets, reduction="none"), "of shape [4]"),
        (lambda logits, targets: total(logits, targets).item(), "returns float"),
        (lambda logits, targets: total(logits.detach(), targets), "no gradient"),
        (lambda logits, targets: total(logits, targets) * 0, "no gradient"),
        (lambda logits, targets: total(logits / 0, targets), "returns nan"),
        (
            lambda logits, targets: total(logits, targets) + (logits - logits.mean(0)).square().sum(),
            "a row's loss depends on others",
        ),
    ],
)
def test_a_function_that_is_no_sum_of_losses_is_refused(function: Callable[..., Any], said: str | None):
    """Shape, numbers, gradient, and that rows add up."""
    problem = problem_of(function, *batch("label", 5))

    assert (said is None and problem is None) or (said is not None and said in str(problem))


def test_a_function_of_the_users_is_cross_entropy_where_it_computes_it():
    """In training by the whole micro batch; in an evaluation row by row."""
    mine, ours = Users(Settings(function=total)), CrossEntropy(Settings())

    torch.testing.assert_close(mean(mine, LABELS, [9, 15]), mean(ours, LABELS, [9, 15]))
    torch.testing.assert_close(mine.of_rows(LOGITS, LABELS), ours.of_rows(LOGITS, LABELS))


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_a_loss_of_tokens_is_summed_over_chunks(monkeypatch, rows):
    """The focal loss of a language model's chosen positions, and its gradients, are those of all logits at once."""
    monkeypatch.setattr(chunks, "CHUNK_ELEMENTS", rows * 11)
    monkeypatch.setattr(chunks, "MIN_ROWS", 1)
    states, targets = torch.randn(7, 6, generator=DRAW), torch.tensor([3, 0, 10, 4, 4])
    positions = torch.tensor([0, 2, 3, 5, 6])
    head = torch.nn.Linear(6, 11)
    loss = Focal(Settings())
    expected = loss(head(states[positions]), targets).sum()
    gradients = torch.autograd.grad(expected, list(head.parameters()))

    projection = Projection(head, total=lambda logits, wanted: loss(logits, wanted).sum())
    value = projection.loss(lambda: types.SimpleNamespace(logits=head(states[None])), positions, targets)

    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(torch.autograd.grad(value, list(head.parameters())), gradients)


def test_a_loss_is_a_name_or_a_name_with_parameters():
    read = RecipeSpec.model_validate_json('{"loss": {"name": "focal", "gamma": 1.5}}').loss

    assert ("focal", {"gamma": 1.5}) == (read.name, read.parameters)
    assert LossSpec(name="focal") == RecipeSpec.model_validate_json('{"loss": "focal"}').loss


@pytest.fixture
def margin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Another package's loss, installed."""
    caches = (plugins._load, plugins._entry_points)
    for cache in caches:
        cache.cache_clear()
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent.parent / "packages" / "margin"))
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.mark.usefixtures("margin")
def test_another_package_brings_a_loss(recipe: Callable[..., Path]):
    """A recipe names it with its parameter, and it computes in ranks; its own problems are the recipe's."""
    loaded = load(recipe(loss={"name": "margin", "margin": 0.5}), env={}).spec
    loss = table.made(loaded, Settings(loaded.loss.parameters))

    expected = functional.multi_margin_loss(LOGITS, LABELS, margin=0.5, reduction="sum")
    torch.testing.assert_close(loss(LOGITS, LABELS).sum(), expected)
    with pytest.raises(LaunchError, match=r"loss\.margin: has to be above 0"):
        load(recipe(loss={"name": "margin", "margin": -1}), env={})
