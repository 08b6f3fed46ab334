"""The metrics: see `table`."""

from launcher.recipe.metrics.table import BUILT_IN as BUILT_IN
from launcher.recipe.metrics.table import EVERY_TARGET as EVERY_TARGET
from launcher.recipe.metrics.table import INTERFACE as INTERFACE
from launcher.recipe.metrics.table import LOSS as LOSS
from launcher.recipe.metrics.table import OF_EVERY_TASK as OF_EVERY_TASK
from launcher.recipe.metrics.table import OF_GENERATION as OF_GENERATION
from launcher.recipe.metrics.table import SHARE as SHARE
from launcher.recipe.metrics.table import TABLE as TABLE
from launcher.recipe.metrics.table import Metric as Metric
from launcher.recipe.metrics.table import figure_names as figure_names
from launcher.recipe.metrics.table import figures as figures
from launcher.recipe.metrics.table import figures_among as figures_among
from launcher.recipe.metrics.table import greater_is_better as greater_is_better
from launcher.recipe.metrics.table import known as known
from launcher.recipe.metrics.table import load as load
from launcher.recipe.metrics.table import named as named
from launcher.recipe.metrics.table import of_function as of_function
from launcher.recipe.metrics.table import of_sets as of_sets
from launcher.recipe.metrics.table import of_the_user as of_the_user
