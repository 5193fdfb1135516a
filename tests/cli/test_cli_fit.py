"""`mlis fit`: what it prints, what it keeps, which data it takes, and how it is resumed."""

import json
import re
import shutil

import numpy as np
import pytest

from cli_cases import NAMES, QUICK, last_json, printed, refused, save_small, small_dataset
from mlis.cli import main
from mlis.cli.progress import Progress
from mlis.evaluation.words import MEANING, legend
from mlis.methods.mlis import MLIS
from mlis.storage.atomic import with_checksum, without_checksum
from mlis.training.progress import ProgressBar

PERCENT = ("U", "S", "H", "T1", "AUSUC", "overall")
GAN = ("--generator", "wgan-gp", "--generation-hidden", "16", "--noise", "4", "--batch-size", "16")
ABLATION = (
    *(*QUICK, *GAN, "--generation-steps", "40", "--critic-steps", "2"),
    *("--seeds", "0,1", "--components", "ml,ml+is+sfr", "--calibration", "validation"),
)


@pytest.fixture(scope="module")
def ablation(small_folder, tmp_path_factory):
    """The folder of a run of two components and two seeds."""
    run = tmp_path_factory.mktemp("ablation") / "run"
    assert main(["fit", str(small_folder), "-o", str(run), *ABLATION]) == 0
    return run


def fit(capsys, *arguments) -> dict:
    """Fit with --json, and return the object of the last line."""
    return last_json(printed(capsys, "fit", *arguments, "--json"))


def failure(capsys, *arguments) -> str:
    """The error line of a fit that must be refused."""
    return refused(capsys, "fit", *arguments)


def test_the_default_says_first_how_long_it_may_take(small_folder, tmp_path, capsys):
    flags = ("--seeds", "0,1", "--budget", "0.5", "--precision", "float32", "--device", "cpu")
    assert main(["fit", str(small_folder), "-o", str(tmp_path / "run"), *flags]) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("choice and training: about 1 s at most for 2 seeds (--budget)")
    assert "choice and training" not in captured.out


def test_other_methods_say_first_how_much_they_train(small_folder, tmp_path, capsys):
    flags = ("--method", "ridge", "--preset", "none", "--calibration", "validation")
    for seeds, said in (("0", "to train: "), ("0,1", "to train: 2 times ")):
        run = tmp_path / seeds
        assert main(["fit", str(small_folder), "-o", str(run), *flags, "--seeds", seeds]) == 0
        said += "on 5 splits with validation classes held out, then on all rows"
        assert capsys.readouterr().err.startswith(said)


def test_after_the_first_training_it_says_how_long_the_rest_takes(capsys):
    bars = ProgressBar("seed 0, mlis, validation")
    bars.on_trained("mlis", 1, 4, 25.0)
    bars.on_trained("mlis", 2, 4, 25.0)
    bars.on_trained("gaussian", 1, 4, 0.3)  # is done before anyone has read of it
    (line,) = capsys.readouterr().err.splitlines()
    assert "split 1 of 3 took 25 s" in line
    assert line.endswith("about 75 s")


def test_words_come_first_and_shares_add_up(small_folder, tmp_path, capsys):
    flags = ("--budget", "none", "--precision", "float32", "--device", "cpu", "--method", "auto")
    flags += ("--refinement-steps", "20", "--refinement-hidden", "16", "--preset", "none")
    assert main(["fit", str(small_folder), "-o", str(tmp_path / "run"), *flags]) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("to train: every method on several splits")
    lines = captured.out.splitlines()
    assert lines[1].startswith("named right: ")
    for name in ("U", "S", "H", "T1"):
        told = rf"  {name} +\d+ \(.+\)  {re.escape(MEANING[name])}"
        assert any(re.fullmatch(told, line) for line in lines)
    for line in legend(("T1", "AUSUC", "overall")):
        assert f"  {line}" in lines
    choice = json.loads((tmp_path / "run/seed-0/auto/result.json").read_text())["choice"]
    assert sum(choice["kept"].values()) == pytest.approx(1)
    for name, share in choice["kept"].items():
        assert next(x for x in lines if x.startswith(f"{name} ")).endswith(f" {share:.2f}")


def test_json_of_one_seed_holds_plain_numbers(small_folder, tmp_path, capsys):
    result = fit(capsys, small_folder, "-o", tmp_path / "run", *QUICK)
    saved = json.loads((tmp_path / "run" / "results.json").read_text())
    for name in PERCENT:
        assert 0 <= result[name] <= 100
        assert [result[name]] == saved["components"]["ml+is+sfr"][name]
    assert result["H"] == pytest.approx(2 * result["U"] * result["S"] / (result["U"] + result["S"]))
    assert result["protocol"] == "H@val"
    assert result["seconds"] == saved["components"]["ml+is+sfr"]["seconds"][0] > 0
    assert (result["seeds"], result["component"]) == ([0], "ml+is+sfr")
    assert not [key for key in result if key.endswith(("_mean", "_std"))]
    assert "components" not in result


def test_json_of_several_seeds_and_components(ablation, capsys):
    result = fit(capsys, "--resume", ablation)
    assert list(result["components"]) == ["ml", "ml+is+sfr"]
    for part in (result, *result["components"].values()):
        for name in PERCENT:
            assert len(part[name]) == 2
            assert part[f"{name}_mean"] == pytest.approx(np.mean(part[name]))
            assert part[f"{name}_std"] == pytest.approx(np.std(part[name], ddof=1))
    assert result["component"] == "ml+is+sfr"
    assert result["H"] == result["components"]["ml+is+sfr"]["H"]
    assert result["components"]["ml"]["H"] != result["H"]
    times = [part["seconds"] for part in result["components"].values()]
    assert result["seconds"] == pytest.approx(np.sum(times))


def test_components_share_the_generator_of_a_seed(ablation):
    for seed in ("seed-0", "seed-1"):
        rows = {
            name: json.loads((ablation / seed / name / "result.json").read_text())
            for name in ("ml", "ml+is+sfr")
        }
        assert [row["generator_reused"] for row in rows.values()] == [False, True]
        for folder in (ablation / seed, ablation / seed / "validation"):
            lines = (folder / "generation.jsonl").read_text().splitlines()
            assert [json.loads(line)["step"] for line in lines] == [20, 40]
    assert not list(ablation.rglob("generation.safetensors"))


def test_the_same_command_again_trains_nothing_and_gives_the_same(ablation, small_folder, capsys):
    models = sorted(ablation.glob("seed-*/*/model/model.safetensors"))
    assert len(models) == 4
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in models}
    results = (ablation / "results.json").read_text()
    fit(capsys, small_folder, "-o", ablation, *ABLATION)
    assert (ablation / "results.json").read_text() == results
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in models} == before


def test_the_same_seed_gives_the_same_bytes(small_folder, tmp_path, capsys):
    found = set()
    short = (*QUICK, *GAN, "--generation-steps", "10")
    for run in range(2):
        fit(capsys, small_folder, "-o", tmp_path / f"{run}", *short)
        models = (tmp_path / f"{run}").rglob("model.safetensors")
        found |= {path.read_bytes() for path in models}
    assert len(found) == 1
    fit(capsys, small_folder, "-o", tmp_path / "other", *short, "--seeds", "1")
    (other,) = (tmp_path / "other").rglob("model.safetensors")
    assert other.read_bytes() not in found


def test_bars_on_a_terminal(small_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    fit(capsys, small_folder, "-o", tmp_path / "run", *QUICK)
    progress = Progress()
    bars = progress("seed 0, ml")
    bars.on_start("generation", 40, 100)
    bars.on_step("generation", 60, 100, {"critic": -1.25})
    bars.on_end("generation")
    bars.on_start("refinement", 5, 5)  # was finished before: no bar
    bars.on_step("refinement", 5, 5, {})
    bars.on_end("refinement")
    err = capsys.readouterr().err
    assert "seed 0, ml: generation:  60%" in err
    assert "60/100" in err
    assert "critic -1.25" in err
    assert "refinement" not in err


def test_settings_are_saved_before_training(small_folder, tmp_path, monkeypatch):
    def stop(*args, **kwargs):
        raise RuntimeError("enough")

    monkeypatch.setattr(MLIS, "choose", stop)
    arguments = ["-o", str(tmp_path / "run"), *QUICK, "--gamma", "16", "--seeds", "3"]
    assert main(["fit", str(small_folder), *arguments]) == 1
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["config"]["refinement"]["gamma"] == 16
    assert record["config"]["generation"]["generator"] == "ridge"
    assert (record["seeds"], record["components"]) == ([3], ["ml+is+sfr"])
    assert record["dataset"] == {"name_or_path": str(small_folder)}


def test_divergence_is_code_2_and_names_the_step(small_folder, tmp_path, capsys):
    line = failure(
        capsys, small_folder, "-o", tmp_path / "run", *QUICK, "--refinement-learning-rate", "1e38"
    )
    assert "refinement diverged" in line
    assert "at step" in line


def test_interruption_says_how_to_continue(small_folder, tmp_path, capsys, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    run = tmp_path / "my run"
    monkeypatch.setattr(MLIS, "choose", interrupt)
    assert main(["fit", str(small_folder), "-o", str(run), *QUICK]) == 130
    err = capsys.readouterr().err
    assert err == f"\nmlis: interrupted; continue with: mlis fit --resume '{run}'\n"
    monkeypatch.undo()
    assert fit(capsys, "--resume", run)["H"] > 0


def test_resume_takes_a_moved_dataset_but_no_other(ablation, tmp_path, capsys, small_folder):
    run = tmp_path / "run"
    place = tmp_path / "data"
    shutil.copytree(small_folder, place)
    first = fit(capsys, place, "-o", run, *QUICK)
    place.rename(tmp_path / "moved")
    assert "expected a dataset folder or one of" in failure(capsys, "--resume", run)
    again = fit(capsys, tmp_path / "moved", "--resume", run)
    assert again == first
    other = save_small(tmp_path / "other", seed=1)
    assert "not those that the run" in failure(capsys, other, "--resume", run)


def test_resume_finds_a_moved_benchmark_by_its_root(xlsa17, tmp_path, capsys):
    (tmp_path / "one").mkdir()
    (tmp_path / "one/FLO").symlink_to(xlsa17 / "FLO")
    quick = (*QUICK, "--max-iterations", "5", "--components", "ml", "--preset", "none")
    first = fit(capsys, "flo", "--data-root", tmp_path / "one", "-o", tmp_path / "run", *quick)
    assert first["dataset"] == "FLO"
    assert first["S"] > 5  # per cent, of 102 classes
    (tmp_path / "one").rename(tmp_path / "two")
    assert "no such folder" in failure(capsys, "--resume", tmp_path / "run")
    assert fit(capsys, "--resume", tmp_path / "run", "--data-root", tmp_path / "two") == first


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["-o", "x"], "--output"),
        (["--device", "cpu"], "--device"),
        (["--gamma", "16"], "--gamma"),
        (["--components", "ml"], "--components"),
        (["--dry-run"], "--dry-run"),
    ],
)
def test_resume_takes_no_setting(ablation, flags, named, capsys):
    assert f"error: {named}: not allowed with --resume" in failure(
        capsys, "--resume", ablation, *flags
    )


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--seeds", "0,0"], "expected distinct values"),
        (["--components", "ml,ml"], "expected distinct values"),
        (["--snapshot-every", "-1"], "expected a number ≥ 0"),
        (["--device", "abacus"], "expected auto or a device of this machine"),
        (["--data-root", "x"], "--data-root: not allowed with"),
        (["--loss", "no_such_module:f"], "importing it failed"),
        (["--loss", "circel"], "expected circle, circle_eq1"),
        (["--split-seed", "-1"], "expected a whole number ≥ 0"),
    ],
)
def test_wrong_flags(small_folder, flags, said, tmp_path, capsys):
    line = failure(capsys, small_folder, "-o", tmp_path / "run", *QUICK, *flags)
    assert said in line


def test_a_loss_of_the_current_folder(small_folder, tmp_path, capsys, monkeypatch):
    (tmp_path / "own_loss_of_this_test.py").write_text(
        "def pull(embeddings, labels):\n"
        "    same = labels[:, None] == labels[None]\n"
        "    return (embeddings[:, None] - embeddings[None]).square().sum(2)[same].mean()\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [p for p in __import__("sys").path if p])
    result = fit(capsys, small_folder, "-o", "run", *QUICK, "--loss", "own_loss_of_this_test:pull")
    assert result["S"] > 0
    lines = (tmp_path / "run/seed-0/ml+is+sfr/refinement.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 25


def test_what_a_run_or_a_settings_file_names_is_imported_on_the_users_word_alone(
    small_folder, tmp_path, capsys, monkeypatch
):
    (tmp_path / "evil_of_this_test.py").write_text(
        "import pathlib\npathlib.Path('imported').touch()\n"
        "def pull(embeddings, labels):\n    return embeddings.square().mean()\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [p for p in __import__("sys").path if p])
    path, modules = list(__import__("sys").path), __import__("sys").modules
    name = "evil_of_this_test:pull"
    (tmp_path / "own.toml").write_text(f"[refinement]\nloss = '{name}'\n")
    fit(capsys, small_folder, "-o", "run", *QUICK, "--loss", name)
    modules.pop("evil_of_this_test")
    (tmp_path / "imported").unlink()
    (tmp_path / "run/results.json").unlink()
    (tmp_path / "run/seed-0/ml+is+sfr/result.json").unlink()
    monkeypatch.setattr("sys.path", path)
    for command in (
        ["--resume", "run"],
        [small_folder, "-o", "new", *QUICK, "--settings", "own.toml"],
    ):
        assert f"add --loss {name}" in failure(capsys, *command)
        assert not (tmp_path / "imported").exists()
    assert "expected 'evil_of_this_test:pull'" in failure(
        capsys, "--resume", "run", "--loss", "circle"
    )
    for word in ("evil_of_this_test", "evil_of_this_test:"):  # nothing to call: not imported
        line = failure(capsys, small_folder, "-o", "new", *QUICK, "--loss", word)
        assert "expected circle, circle_eq1" in line
    assert not (tmp_path / "imported").exists()
    assert not (tmp_path / "new").exists()
    assert fit(capsys, "--resume", "run", "--loss", name)["S"] > 0
    assert (tmp_path / "imported").exists()


def test_tables(tmp_path, capsys):
    data = small_dataset()
    lines = ["label," + ",".join(f"f{i}" for i in range(data.features.shape[1]))]
    for label, row in zip(data.labels, data.features, strict=True):
        lines.append(",".join([data.class_names[label], *map(str, row)]))
    (tmp_path / "features.csv").write_text("\n".join(lines))
    lines = ["name,split," + ",".join(f"a{i}" for i in range(data.descriptors.shape[1]))]
    for i, row in enumerate(data.descriptors):
        kind = "seen" if data.seen_mask[i] else "unseen"
        lines.append(",".join([data.class_names[i], kind, *map(str, row)]))
    (tmp_path / "classes.csv").write_text("\n".join(lines))
    tables = ("--features", tmp_path / "features.csv", "--classes", tmp_path / "classes.csv")
    result = fit(capsys, *tables, "-o", tmp_path / "run", *QUICK, "--test-fraction", "0.5")
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["dataset"]["test_fraction"] == 0.5
    assert result["U"] > 0
    model = json.loads((tmp_path / "run/seed-0/ml+is+sfr/model/config.json").read_text())
    assert tuple(model["class_names"]) == NAMES


def test_relative_paths_are_kept_absolute(small_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(small_folder.parent)
    first = fit(capsys, small_folder.name, "-o", tmp_path / "run", *QUICK)
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["dataset"] == {"name_or_path": str(small_folder)}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run/results.json").unlink()
    (tmp_path / "run/seed-0/ml+is+sfr/result.json").unlink()  # so that the data are needed again
    again = fit(capsys, "--resume", "run")
    assert {name: again[name] for name in PERCENT} == {name: first[name] for name in PERCENT}


def test_a_record_with_foreign_options_is_refused(small_folder, tmp_path, capsys):
    fit(capsys, small_folder, "-o", tmp_path / "run", *QUICK)
    path = tmp_path / "run/run.json"
    record = without_checksum(json.loads(path.read_text()))
    record["dataset"]["evil"] = 1
    path.write_text(json.dumps(with_checksum(record)))
    assert "unknown dataset options evil" in failure(capsys, "--resume", tmp_path / "run")


def test_a_second_process_is_kept_out(small_folder, tmp_path, capsys):
    fcntl = pytest.importorskip("fcntl")
    run = tmp_path / "run"
    run.mkdir()
    with (run / ".mlis.lock").open("w") as handle:  # as another process would
        fcntl.flock(handle, fcntl.LOCK_EX)
        line = failure(capsys, small_folder, "-o", run, *QUICK)
    assert "is in use by another process" in line
    assert not list(run.rglob("*.jsonl"))


def test_a_finished_run_announces_nothing(small_folder, tmp_path, capsys):
    run = tmp_path / "run"
    flags = ("--method", "ridge", "--preset", "none", "--precision", "float32", "--device", "cpu")
    assert main(["fit", str(small_folder), "-o", str(run), *flags]) == 0
    assert "to train: " in capsys.readouterr().err
    assert main(["fit", "--resume", str(run)]) == 0
    assert "to train" not in capsys.readouterr().err
