"""Fixtures that every test file may use."""

from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real benchmark files beside the project; skips where it is absent."""
    if not (SHARED_DATA / "xlsa17").is_dir():
        pytest.skip(f"real benchmark files are not here: {SHARED_DATA}/xlsa17 is absent")
    return SHARED_DATA


@pytest.fixture(scope="session")
def xlsa17(shared_data: Path) -> Path:
    """Root of the benchmark folders: `FLO/`, `CUB/`, …"""
    return shared_data / "xlsa17"


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved small dataset, to be read only."""
    from cli_cases import save_small

    return save_small(tmp_path_factory.mktemp("small") / "data")


@pytest.fixture(autouse=True)
def _private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch):
    """Keep the user's own cache folder out of the tests."""
    monkeypatch.setenv("MLIS_CACHE", str(tmp_path_factory.getbasetemp() / "mlis-cache"))


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Tiny matrices are slower on several threads, and tests may run beside each other."""
    import torch

    torch.set_num_threads(1)
