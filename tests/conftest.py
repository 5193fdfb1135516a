"""Fixtures that every test file may use."""

import functools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlis.data.letters import dataset as letters

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def _rendered_once(load: Callable[..., letters.LetterData]) -> Callable[..., letters.LetterData]:
    """As `load_letters`; what is asked for without a list of letters is kept for the next test."""
    kept = functools.lru_cache(maxsize=3)(load)
    return lambda **options: (load if options.get("letters") else kept)(**options)


letters.load_letters = _rendered_once(letters.load_letters)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real benchmark files beside the project; skips where it is absent."""
    if not (SHARED_DATA / "xlsa17").is_dir():
        pytest.skip(f"real benchmark files are not here: {SHARED_DATA}/xlsa17 is absent")
    return SHARED_DATA


@pytest.fixture(scope="session")
def xlsa17(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of the benchmark folders, `FLO/`, `CUB/`, …: links to the first view of each."""
    root = tmp_path_factory.mktemp("xlsa17")
    for file in (shared_data / "xlsa17").glob("*/*.mat"):
        if not file.stem.endswith("_whole"):
            (root / file.parent.name).mkdir(exist_ok=True)
            (root / file.parent.name / file.name).symlink_to(file)
    return root


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved small dataset, to be read only."""
    from cli_cases import save_small

    return save_small(tmp_path_factory.mktemp("small") / "data")


@pytest.fixture(autouse=True, scope="session")
def _private_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep the user's own cache folder out of the tests, and of their shared fixtures."""
    folder = tmp_path_factory.getbasetemp() / "mlis-cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLIS_CACHE", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def _no_generators_of_other_tests(_private_cache: Path) -> Iterator[None]:
    """A test trains its own generators: none is left to the next one."""
    yield
    shutil.rmtree(_private_cache / "generators", ignore_errors=True)


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Tiny matrices are slower on several threads, and tests may run beside each other."""
    import torch

    threads = os.environ.get("MLIS_TEST_THREADS", "1")
    torch.set_num_threads(int(threads))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", threads)  # of programs that tests start
        yield
