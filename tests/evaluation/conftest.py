"""Fixtures of the tests of evaluation: the tuned run's model and its valid split."""

from __future__ import annotations

import pytest

from dynlm.data.tokenised_split import TokenisedSplit
from dynlm.run.folder import TrainedModel, load_model
from tests.tiny import Run, opened


@pytest.fixture(scope="module")
def trained(tuned_run: Run) -> TrainedModel:
    return load_model(tuned_run.folder)


@pytest.fixture(scope="module")
def valid(tuned_run: Run) -> TokenisedSplit:
    split: TokenisedSplit = opened(tuned_run.folder, tuned_run.config).split("valid")
    return split
