"""All cases, in the order of the page."""

from tests.faults import datasets, models, services, settings, storage

CASES = (
    *datasets.CASES,
    *models.CASES,
    *storage.CASES,
    *settings.CASES,
    *services.CASES,
)
