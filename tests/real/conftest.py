"""The real model that these tests are about; where it is not there, they are left out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agentopd.models.model import LanguageModel, ModelSettings, load_model

HERE = Path(__file__).parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of them need a pretrained model."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.real)


@pytest.fixture(scope="session")
def folder() -> Path:
    """Where `make test-real` puts the model, or another that AGENTOPD_REAL_MODEL names."""
    found = Path(os.environ.get("AGENTOPD_REAL_MODEL", HERE / "models" / "smollm2-135m"))
    if not (found / "config.json").is_file():
        pytest.skip(f"no model lies in {found}: make test-real makes it")
    return found


@pytest.fixture(scope="session")
def model(folder: Path) -> LanguageModel:
    """The model, in float32."""
    return load_model(ModelSettings(path=str(folder)))
