"""`python -m train.evaluate`, `train.study` and `train.reverse` as a user runs them, and what they refuse."""

import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import run
from matplotlib.image import imread

from jgmm import fit
from jgmm.checkpoint.files import read_json, write_json
from jgmm.convert.tensors import write_tensors
from jgmm.errors import InputError
from train import __main__ as trainer
from train import evaluate, judging, reverse, runs, study
from train.metrics import classifier, inception

DIGITS = ["--preset", "tiny", "--base", "8", "--multipliers", "1", "--blocks", "1", "--batch-size", "32"]
DIGITS += ["--dataset", "digits", "--holdout", "0.3", "--n-samples", "4", "--nfe", "2", "--steps", "4"]
FAST = ["--features", "pca", "--batch-size", "600", "--nfe", "1", "2"]


@pytest.fixture(scope="module", autouse=True)
def compiled_in_a_hurry():
    """Not here: the classifier runs longer than it compiles."""


@pytest.fixture(autouse=True)
def quick_judge(monkeypatch):
    monkeypatch.setattr(classifier, "STEPS", 60)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judged") / "run"
    assert run(trainer.main, *DIGITS, "--coupling", "cache", "--out", folder) == 0
    return folder


@pytest.mark.slow
def test_judging(trained, capsys):
    assert run(evaluate.main, trained, *FAST, "--likelihood", "3") == 0
    said = capsys.readouterr().out
    assert "539 images held out of the training; real: as many training images" in said
    found = judging.read(trained / "evaluation")
    assert list(found.rows) == ["real", "x0", "1", "2"]
    real, x0 = found.rows["real"], found.rows["x0"]
    assert real["Fréchet, pca"] < 0.1 * x0["Fréchet, pca"]
    assert abs(real["classifier AUC"] - 0.5) < 0.15 < 0.4 < x0["classifier AUC"] - 0.5
    assert abs(found.law - 0.5) < 0.15
    assert found.bits is not None
    assert 2 < found.bits[0] < 20
    assert imread(trained / "evaluation" / "quality.png").std() > 0.05
    written = trained / "evaluation" / "evaluation.json"
    content = read_json(written)
    del content["about"]["config"]["init_from"]  # as a version that did not have the option wrote it
    write_json(written, content)
    assert run(evaluate.main, trained, *FAST, "4", "--likelihood", "3") == 0  # goes on where it was
    assert "2 evaluations: done" not in capsys.readouterr().out
    more = judging.read(trained / "evaluation")
    assert list(more.rows) == ["real", "x0", "1", "2", "4"]
    assert more.rows["2"] == found.rows["2"]
    assert more.about["options"]["nfe"] == [1, 2, 4]
    content["about"]["step"] = 3  # before the training went on
    write_json(written, content)
    assert run(evaluate.main, trained, *FAST) == 0
    again = judging.read(trained / "evaluation")
    assert list(again.rows) == ["real", "x0", "1", "2"]
    assert again.about["step"] == 4
    written.write_text(written.read_text().replace('"step": 4', '"step": 5'))
    assert run(evaluate.main, trained, *FAST) == 2
    assert "evaluation.json is not as it was written" in capsys.readouterr().err


@pytest.mark.slow
def test_what_cannot_be_judged_is_refused(trained, tmp_path, capsys):
    (tmp_path / "evaluation.json").write_text("{}")
    np.savez(tmp_path / "weights.npz", a=np.zeros(3))
    for args, message in (
        ([tmp_path], "no training at"),
        ([trained, "--nfe", "0"], "--nfe must be from 1"),
        ([trained, "--nfe", "3", "--solver", "heun"], "multiple"),
        ([trained, "--solver", "dopri5"], "chooses its own number of evaluations"),
        ([trained, "--likelihood", "1"], "has no standard error"),
        ([trained, *FAST, "--likelihood", "600", "--out", tmp_path / "new"], "more than the 539 real images"),
        ([trained, "--features", "inception"], "unknown kind of features"),
        ([trained, "--out", tmp_path], "was not written by python -m train.evaluate"),
        ([trained, "--inception-weights", tmp_path / "weights.npz", "--out", tmp_path / "new"], "was not made by"),
        ([trained, *FAST, "--n", "60", "--out", tmp_path / "new"], "needs at least 65 samples of each kind, got 60"),
    ):
        assert run(evaluate.main, *args) == 2, args
        assert message in " ".join(capsys.readouterr().err.split()), args


def test_other_weights_are_not_those_of_fid(tmp_path, monkeypatch):
    write_tensors(tmp_path / "other.pth", {"fc.weight": np.zeros((2, 2), np.float32)})
    monkeypatch.setattr("sys.argv", ["inception", str(tmp_path / "other.pth"), str(tmp_path / "out.npz")])
    with pytest.raises(InputError, match="is not the network that FID is defined by"):
        inception.main()
    assert not (tmp_path / "out.npz").exists()


STUDY = """
[study]
out = "{out}"
seeds = [0, 1]
nfe = [1]
features = ["pca"]

[train]
preset = "tiny"
base = 8
multipliers = [1]
dataset = "digits"
holdout = 0.3
flips = false
steps = {steps}

[mixtures.two]
k = 2
max_iter = 3

[reversed.back]
row = "N(0, I), independent"
k = 3
nfe = 2

[[row]]
name = "N(0, I), independent"

[[row]]
name = "two, component"
source = "two"
coupling = "component"

[[row]]
name = "two, component, pruned"
source = "two"
coupling = "component"
prune = true

[[row]]
name = "reversed, component-ot"
source = "back"
coupling = "component-ot"
"""


MAINS = {"jgmm.fit": fit.main, "train": trainer.main, "train.evaluate": evaluate.main, "train.reverse": reverse.main}


def in_this_process(words, *, stdout, stderr):
    """In the place of subprocess.run: the judge of another process would not be quick."""
    with redirect_stdout(stdout), redirect_stderr(stderr):
        return SimpleNamespace(returncode=run(MAINS[words[2]], *words[3:]))


@pytest.mark.slow
def test_a_study_goes_on_and_refuses_other_budgets(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(study.subprocess, "run", in_this_process)
    monkeypatch.setattr(study.subprocess, "STDOUT", sys.stdout)
    file, out = tmp_path / "study.toml", tmp_path / "out"
    file.write_text(STUDY.format(out=out, steps=4))
    assert run(study.main, file) == 0
    assert "row 2 of 4, seed 2 of 2: two, component, judging" in capsys.readouterr().out
    assert not (out / "two-component-pruned").exists()  # trained with the row before
    assert (out / "reversed" / "back" / "seed-1" / "config.json").exists()
    table = (out / "table.md").read_text()
    assert "| two, component | 2 |" in table
    assert "±" in table
    assert imread(out / "quality.png").std() > 0.05
    before = (out / "two-component" / "seed-1" / "evaluation" / "evaluation.json").stat().st_mtime_ns
    (out / "two-component" / "seed-0" / "evaluation" / "evaluation.json").unlink()
    assert run(study.main, file) == 0
    assert "training" in capsys.readouterr().out
    assert (out / "two-component" / "seed-1" / "evaluation" / "evaluation.json").stat().st_mtime_ns == before
    assert (out / "table.md").read_text() == table
    # More numbers of evaluations are judged row by row, and the others wait for the table without stopping it.
    file.write_text(STUDY.format(out=out, steps=4).replace("nfe = [1]", "nfe = [1, 2]", 1))
    assert run(study.main, file) == 0
    extended = (out / "table.md").read_text().splitlines()
    assert all(any(line.startswith(row) for line in extended) for row in table.splitlines() if row.startswith("| "))
    assert any(line.endswith("| x0 | 1 | 2 |") for line in extended)
    # A training that was judged before its end goes on, and is judged again.
    written = out / "two-component" / "seed-0" / "evaluation" / "evaluation.json"
    content = read_json(written)
    content["about"]["step"] = 2
    write_json(written, content)
    assert run(study.main, file) == 0
    assert read_json(written)["about"]["step"] == 4
    for change, message in (
        (("steps = 4", "steps = 6"), "was trained with another --steps: runs of different budgets"),
        (("k = 2", "k = 3"), "two was made with another --k"),
        (("nfe = 2\n", "nfe = 4\n"), "seed-0 was made with another --nfe"),
        (('["pca"]', '["pca"]\nn = 530'), "was judged with another --n"),
    ):
        file.write_text(STUDY.format(out=out, steps=4).replace(*change))
        assert run(study.main, file) == 2
        assert message in capsys.readouterr().err


def test_a_study_that_is_none_is_refused(tmp_path):
    file = tmp_path / "study.toml"
    whole = STUDY.format(out=tmp_path / "out", steps=4)
    for content, message in (
        ("[study", "cannot read the study"),
        ("[rows]", "expected .study., .train., .mixtures.NAME., .reversed.NAME. and ..row.., got rows"),
        (whole.replace("seeds", "seed"), r"\[study\] has out, seeds"),
        (whole.replace("steps", "stepz"), r"\[train\] cannot have stepz"),
        (whole.replace('coupling = "component"', "steps = 8"), "so that budgets are equal"),
        (whole.replace('"two, component"', '"n 0 i independent"'), "differ in their letters and digits"),
        (whole.replace('coupling = "component"', 'coupling = "components"'), "unknown coupling"),
        (whole[: whole.index("[[row]]")], "at least one"),
        (whole.replace("[0, 1]", "3"), "seeds must be a list of different integers, got 3"),
        ("study = 1", "expected tables"),
        (whole.replace("seeds = [0, 1]", "picture = [3]"), "picture must be a list of names of rows, got .3."),
        (whole.replace('source = "two"', 'source = "three"'), "among gaussian, mle, two, back or a run folder"),
        (whole.replace('row = "N(0, I), independent"', 'row = "reversed"'), "the name of an earlier row"),
        (whole.replace("nfe = [1]", "nfe = [0]"), "--nfe must be from 1"),
        (whole.replace("nfe = [1]", "nfe = 0"), "--nfe must be from 1"),
        (whole.replace("[0, 1]", "[0, 0]"), "seeds must be a list of different integers"),
        (whole.replace("[0, 1]", "[true]"), "seeds must be a list of different integers"),
        (whole.replace("prune = true", 'prune = "no"'), "has prune = 'no', expected true or false"),
        (whole.replace("k = 2", "seed = 2"), r"\[mixtures.two\] cannot have seed: .* the images of \[train\]"),
        (whole.replace("k = 2", "kk = 2"), "kk"),
        (whole.replace("k = 3", "k = 0"), "--k must be"),
        (whole.replace("mixtures.two", "mixtures.mle"), "several sources of the name mle"),
    ):
        file.write_text(content)
        with pytest.raises(InputError, match=message):
            study.read(file)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["moments", "em"])
def test_a_source_of_images_carried_backward(method, trained, tmp_path, capsys):
    out, second = tmp_path / "source", tmp_path / "second"
    how = ["--k", "5", "--method", method, "--nfe", "2", "--out", out]
    assert run(reverse.main, trained, *how) == 0
    assert "1,258 images carried back" in capsys.readouterr().out
    more = ["--source", out, "--coupling", "component-ot", "--out", second]
    assert run(trainer.main, *DIGITS, *more) == 0
    assert run(trainer.main, "--resume", "--steps", "6", "--out", second) == 0
    assert json.loads((second / "config.json").read_text())["base"]["source"]["type"].endswith("Reversed")
    assert runs.kept_config(second).steps == 6
    assert run(reverse.main, second, "--k", "5", "--nfe", "2", "--out", tmp_path / "again") == 0
    assert run(trainer.main, *DIGITS, *more[:-1], tmp_path / "other", "--space", "zca") == 2
    assert "of a flow that was trained with --space pixel: give the same" in capsys.readouterr().err
    assert run(reverse.main, trained, *how) == 2
    assert "already holds" in capsys.readouterr().err
