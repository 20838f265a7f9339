"""Figures and source listings, for the notebooks and, of trainings, for MLflow."""

from doggos_helpers.show.charts import *  # noqa: F403
from doggos_helpers.show.pictures import *  # noqa: F403
