"""The command line: every command, and every way to be refused."""

import gzip
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

import slide
from slide import _cli
from slide.__main__ import main
from slide.data import write_xmc

N, FEATURES, LABELS = 60, 12, 8


def points(seed=0, n=N):
    """Points whose two features say which label they have."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(LABELS, size=n)
    x = np.zeros((n, FEATURES), np.float32)
    x[np.arange(n), labels] = 1
    x[np.arange(n), 8 + labels % 4] = 0.5
    y = np.zeros((n, LABELS), np.float32)
    y[np.arange(n), labels] = 1
    return sparse.csr_matrix(x), sparse.csr_matrix(y)


def write_svmlight(path, x, y):
    with open(path, "w") as file:
        for i in range(x.shape[0]):
            pairs = zip(x[[i]].indices, x[[i]].data, strict=True)
            file.write(f"{y[[i]].indices[0]} " + " ".join(f"{j}:{v:g}" for j, v in pairs) + "\n")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to work in, with a training and a test file."""
    monkeypatch.chdir(tmp_path)
    write_xmc("train.txt", *points())
    write_xmc("test.txt", *points(seed=1))
    return tmp_path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The path of a model that knows the points."""
    folder = tmp_path_factory.mktemp("trained")
    write_xmc(folder / "train.txt", *points())
    path = folder / "model.slide"
    status = main(
        ["train", str(folder / "train.txt"), "--output", str(path), "--epochs", "40", "--hidden",
         "16", "--batch-size", "10", "--learning-rate", "0.02", "--n-jobs", "1", "--quiet"]
    )
    assert status == 0
    return str(path)


def test_lazy_trains_with_lazy_adam(folder):
    arguments = ["train", "train.txt", "--output", "lazy.slide", "--epochs", "1", "--quiet"]
    assert main([*arguments, "--lazy"]) == 0
    assert slide.load("lazy.slide").optimizer.lazy
    assert main(arguments) == 0
    assert not slide.load("lazy.slide").optimizer.lazy


def refused(capsys, *arguments):
    """Return the one line of an error."""
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as exit:  # how argparse ends
        status = exit.code
    captured = capsys.readouterr()
    assert status == 2
    assert captured.err.count("\n") == 1
    assert captured.err.endswith("\n")
    assert "Traceback" not in captured.err
    return captured.err


def test_train_evaluate_predict(folder, capsys):
    arguments = ["train", "train.txt", "--validation", "test.txt", "--epochs", "40", "--hidden",
                 "16,8", "--batch-size", "10", "--learning-rate", "0.02", "--seed", "3", "--n-jobs",
                 "1"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "60 points, 12 features, 8 labels" in out
    assert "val loss" in out
    assert "40/40" in out
    assert "Model saved: model.slide" in out

    assert main(["evaluate", "model.slide", "test.txt", "--training-data", "train.txt"]) == 0
    scores = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert list(scores) == ["loss", "precision@1", "precision@3", "precision@5", "ndcg@5", "psp@5"]
    x, y = points(seed=1)
    model = slide.load("model.slide")
    model.metrics = [slide.metrics.PrecisionAtK(1)]
    expected = model.evaluate(x, y)
    assert float(scores["loss"]) == pytest.approx(expected["loss"], abs=1e-4)
    assert float(scores["precision@1"]) == pytest.approx(expected["precision@1"], abs=1e-4)
    assert float(scores["precision@1"]) > 0.9

    assert main(["predict", "model.slide", "test.txt", "--top-k", "3"]) == 0
    printed = capsys.readouterr().out
    ids, values = model.predict(x, top_k=3)
    lines = printed.splitlines()
    assert len(lines) == N
    for line, labels, row in zip(lines, ids, values, strict=True):
        pairs = [pair.split(":") for pair in line.split()]
        assert [int(label) for label, _ in pairs] == labels.tolist()
        assert [float(value) for _, value in pairs] == pytest.approx(row.tolist(), rel=1e-4)

    assert main(["predict", "model.slide", "test.txt", "--top-k", "3", "--output", "out.txt"]) == 0
    assert (folder / "out.txt").read_text() == printed
    assert not (folder / "out.txt.part").exists()


def test_a_model_of_few_labels_predicts_them_all(folder, capsys):
    Path("few.txt").write_text("0 0:1\n1 1:1\n2 2:1\n")
    assert main(["train", "few.txt", "--epochs", "1", "--quiet"]) == 0
    assert main(["predict", "model.slide", "few.txt"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [sorted(pair.split(":")[0] for pair in line.split()) for line in lines] == [
        ["0", "1", "2"]
    ] * 3


def test_one_label(folder, capsys):
    """Whether a point has it: nothing is ranked."""
    Path("one.svm").write_text("0 0:1\n1:1\n" * 40)
    bce = ["--loss", "bce", "--learning-rate", "0.1", "--epochs", "4", "--n-jobs", "1"]
    assert main(["train", "one.svm", "--validation", "one.svm", *bce]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("accuracy" in line for line in lines)
    assert "100.0%" in lines[-2]
    assert main(["evaluate", "model.slide", "one.svm"]) == 0
    name, value = capsys.readouterr().out.splitlines()[-1].split()
    assert (name, value) == ("accuracy", "1.0000")
    assert main(["evaluate", "model.slide", "one.svm", "--training-data", "one.svm"]) == 2
    assert "--training-data: model.slide has one output" in capsys.readouterr().err


def test_svmlight_gives_the_same_model(folder, capsys):
    x, y = points()
    write_svmlight("train.svm", x, y)
    with gzip.open("train.svm.gz", "wb") as file:
        file.write((folder / "train.svm").read_bytes())
    same = ["--epochs", "2", "--quiet", "--n-jobs", "1"]
    assert main(["train", "train.txt", "--output", "a", *same]) == 0
    assert main(["train", "train.svm.gz", "--output", "b", *same]) == 0
    assert main(["train", "train.svm", "--format", "svmlight", "--output", "c", *same]) == 0
    assert capsys.readouterr().out == ""
    a, b, c = (slide.load(folder / name).get_weights() for name in "abc")
    assert all(np.array_equal(p, q) for p, q in zip(a, b, strict=True))
    assert all(np.array_equal(p, q) for p, q in zip(a, c, strict=True))


def test_one_based_svmlight_is_read_alike_with_and_without_its_lowest_features(folder, capsys):
    (folder / "train.svm").write_text("0 1:1 2:1\n1 3:1\n")
    (folder / "test.svm").write_text("1 3:1\n0 0:1 3:1\n")
    assert main(["train", "train.svm", "--epochs", "1", "--quiet"]) == 0
    assert slide.load("model.slide").input.n_features == 4
    assert main(["predict", "model.slide", "test.svm", "--top-k", "1"]) == 0


def test_a_byte_order_mark_is_skipped(folder):
    for name in ("train.txt", "test.txt"):
        Path(name).write_bytes(b"\xef\xbb\xbf" + Path(name).read_bytes())
    with gzip.open("test.gz", "wb") as file:
        file.write(Path("test.txt").read_bytes())
    assert main(["train", "train.txt", "--validation", "test.gz", "--epochs", "1", "--quiet"]) == 0
    assert slide.load("model.slide").input.n_features == FEATURES


@pytest.mark.parametrize(
    ("how", "parts"),
    [
        ("auto", None),
        ("none", None),
        ("4,0,0", [slide.sampling.LSH]),
        ("4,2,2", [slide.sampling.LSH, slide.sampling.Frequent, slide.sampling.Uniform]),
        ("0,0,5", [slide.sampling.Uniform]),
    ],
)
@pytest.mark.parametrize("loss", ["softmax", "bce"])
def test_samplers_and_losses(folder, how, parts, loss):
    assert main(["train", "train.txt", "--sampler", how, "--loss", loss, "--epochs", "1",
                 "--quiet", "--n-jobs", "1"]) == 0
    layer = slide.load("model.slide").layers[-1]
    assert layer.activation == ("softmax" if loss == "softmax" else "sigmoid")
    if how == "none":
        assert layer.sampler is None
    elif parts is not None:
        assert [type(part) for part in layer.sampler.samplers] == parts


def test_sizes_for_files_with_larger_ids(folder):
    (folder / "train.svm").write_text("0 1:1\n1 2:1\n")
    arguments = ["--epochs", "1", "--quiet", "--n-features", "50", "--n-labels", "9"]
    assert main(["train", "train.svm", *arguments]) == 0
    model = slide.load("model.slide")
    assert (model.input.n_features, model.layers[-1].units) == (50, 9)


def test_training_replaces_the_output(folder):
    (folder / "model.slide").write_text("old")
    assert main(["train", "train.txt", "--epochs", "1", "--quiet"]) == 0
    assert slide.load("model.slide").epochs_trained == 1


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="a system without owners of files")
def test_a_file_that_only_its_owner_may_replace_is_found_before_training(
    folder, capsys, monkeypatch
):
    (folder / "model.slide").write_text("old")
    folder.chmod(0o1777)
    monkeypatch.setattr(os, "geteuid", lambda: os.stat(folder).st_uid + 1)
    message = refused(capsys, "train", "train.txt", "--epochs", "1")
    assert "model.slide: somebody else's file" in message
    assert (folder / "model.slide").read_text() == "old"


def test_a_model_that_cannot_be_saved_is_saved_beside(folder, capsys, monkeypatch):
    def occupied(self, epoch, logs=None):
        Path("model.slide").mkdir()

    Path("model-1.slide").write_text("mine")
    monkeypatch.setattr(_cli.Table, "on_epoch_end", occupied)
    assert main(["train", "train.txt", "--epochs", "1"]) == 2
    message = "model.slide: is a directory; the model is in model-2.slide\n"
    assert capsys.readouterr().err.endswith(message)
    assert slide.load("model-2.slide").epochs_trained == 1
    assert Path("model-1.slide").read_text() == "mine"


def test_a_model_whose_folder_is_gone_is_saved_here(folder, capsys, monkeypatch):
    Path("models").mkdir()
    monkeypatch.setattr(_cli.Table, "on_epoch_end", lambda *_: Path("models").rmdir())
    assert main(["train", "train.txt", "--epochs", "1", "--output", "models/m.slide"]) == 2
    assert capsys.readouterr().err.endswith("models; the model is in m-1.slide\n")
    assert slide.load("m-1.slide").epochs_trained == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without named pipes")
def test_pipes_are_no_files_to_replace(folder, trained, capsys):
    os.mkfifo("pipe")
    assert "pipe: a pipe or a device" in refused(capsys, "train", "train.txt", "--output", "pipe")
    assert main(["predict", trained, "test.txt"]) == 0
    expected = capsys.readouterr().out
    with subprocess.Popen(["cat", "pipe"], stdout=subprocess.PIPE, text=True) as reader:
        assert main(["predict", trained, "test.txt", "--output", "pipe"]) == 0
        assert reader.communicate()[0] == expected
    assert Path("pipe").is_fifo()


def test_predictions_are_compressed_by_name(folder, trained, capsys):
    assert main(["predict", trained, "test.txt"]) == 0
    assert main(["predict", trained, "test.txt", "--output", "out.gz"]) == 0
    with gzip.open("out.gz", "rt") as file:
        assert file.read() == capsys.readouterr().out


def test_approximate(folder, trained, capsys):
    assert main(["predict", trained, "test.txt", "--approximate", "--top-k", "1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == N
    assert main(["train", "train.txt", "--sampler", "0,2,2", "--epochs", "1", "--quiet"]) == 0
    message = refused(capsys, "predict", "model.slide", "test.txt", "--approximate")
    assert "--approximate: model.slide has no hash tables" in message


def test_ctrl_c_saves_what_was_learned(folder, capsys, monkeypatch):
    def interrupt(self, epoch, logs=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(_cli.Table, "on_epoch_end", interrupt)
    assert main(["train", "train.txt", "--epochs", "3", "--batch-size", "20"]) == 130
    assert capsys.readouterr().err == "interrupted: model.slide has the model of step 3\n"
    assert slide.load("model.slide").step == 3


def test_ctrl_c_before_training_saves_nothing(folder, capsys, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(_cli, "read", interrupt)
    assert main(["train", "train.txt"]) == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert not (folder / "model.slide").exists()


def test_divergence(folder, capsys):
    x, y = np.full((4, 3), 3e38), np.eye(4, 2)
    write_xmc("large.txt", sparse.csr_matrix(x), sparse.csr_matrix(y))
    message = refused(capsys, "train", "large.txt", "--quiet", "--learning-rate", "1e9")
    assert "training diverged at step" in message
    assert not (folder / "model.slide").exists()


def write_bad_files():
    files = {
        "empty": b"",
        "header.txt": b"0 3 2\n",
        "short.txt": b"3 3 2\n0 1:1\n",
        "value.txt": b"2 3 2\n0 1:1\n1 2:x\n",
        "nolabels.txt": b"1 3 0\n 1:1\n",
        "nofeatures.txt": b"1 0 3\n1\n",
        "wide.txt": b"1 99 2\n0 98:1\n",
        "wide.svm": b"0 1:1\n0 98:1\n",
        "manylabels.svm": b"0 1:1\n\n77 2:1\n",
        "damaged.gz": gzip.compress(b"50 3 2\n" + b"0 1:1\n" * 50)[:-10],
        "fake.gz": b"\x1f\x8bnonsense",
        "contradicts.txt": b"1 12 8\n0 12:1\n",
        "alien.txt": b"1 12 8\n8 1:1\n",
        "hash.svm": b"0 4294967296:1\n",
        "hashed.svm": b"0,4294967296 1:1\n",
        "words.txt": b"one two three\n",
        "nolabels.svm": b"1:1\n2:1\n",
        "zeros.txt": b"2 3 2\n0\n1\n",
        "one.svm": b"0 1:1\n2:1\n",
    }
    np.save("array.npy", np.eye(2))
    sparse.save_npz("matrix.npz", sparse.csr_matrix(np.eye(2)))
    for name, content in files.items():
        with open(name, "wb") as file:
            file.write(content)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "absent.txt"], "absent.txt: No such file"),
        (["train", "."], ".: Is a directory"),
        (["train", "empty"], "empty, the file is empty"),
        (["train", "header.txt"], "header.txt: no points"),
        (["train", "short.txt"], "short.txt, line"),
        (["train", "value.txt"], "value.txt, line 3"),
        (["train", "nolabels.txt"], "nolabels.txt: no labels"),
        (["train", "nofeatures.txt"], "nofeatures.txt: no features"),
        (["train", "damaged.gz"], "damaged.gz: damaged or truncated gzip"),
        (["train", "fake.gz"], "fake.gz: damaged or truncated gzip"),
        (["train", "words.txt"], "(read as svmlight"),
        (["train", "words.txt", "--format", "xmc"], "words.txt, line 1: expected a header"),
        (["train", "train.txt", "--n-labels", "5"], "train.txt, line 1"),
        (
            ["train", "train.txt", "--validation", "wide.txt"],
            "wide.txt, line 1: the header announces 99, more than n_features=12; train with "
            "--n-features larger than all ids",
        ),
        (["train", "train.txt", "--validation", "wide.svm"], "wide.svm, line 2"),
        (["train", "train.txt", "--validation", "manylabels.svm"], "train with --n-labels larger"),
        (["train", "train.txt", "--output", "no/model"], "no/model: there is no directory"),
        (["train", "train.txt", "--output", "."], ".: is a directory"),
        (["train", "train.txt", "--sampler", "9,0,0"], "--sampler 9,0,0: the data has 8 labels"),
        (["train", "train.txt", "--sampler", "0,5,5"], "--sampler 0,5,5: the data has 8 labels"),
        (["train", "train.txt", "--sampler", "0,0,0"], "argument --sampler: 0,0,0"),
        (["train", "train.txt", "--sampler", "lsh"], "argument --sampler: must be auto, none or"),
        (["train", "train.txt", "--sampler", "1,2,x"], "argument --sampler: must be an integer"),
        (["train", "train.txt", "--hidden", "8,"], "argument --hidden: must be an integer"),
        (["train", "train.txt", "--hidden", "0"], "argument --hidden: must be at least 1"),
        (["train", "train.txt", "--epochs", "0"], "argument --epochs: must be at least 1, got 0"),
        (["train", "train.txt", "--epochs", "two"], "argument --epochs: must be an integer"),
        (["train", "train.txt", "--batch-size", "-1"], "argument --batch-size"),
        (["train", "train.txt", "--batch-size", "9999999"], "batch_size must be between"),
        (["train", "train.txt", "--learning-rate", "nan"], "argument --learning-rate"),
        (["train", "train.txt", "--n-jobs", "0"], "argument --n-jobs"),
        (["train", "train.txt", "--seed", "-1"], "argument --seed"),
        (["train", "train.txt", "--loss", "mse"], "argument --loss"),
        (["train"], "DATA"),
        (["train", "train.txt", "--epoch", "3"], "--epoch"),
        ([], "COMMAND"),
        (["learn"], "learn"),
        (["evaluate", "absent", "train.txt"], "absent: No such file"),
        (["evaluate", "train.txt", "train.txt"], "train.txt is not a readable model"),
        (["evaluate", "MODEL", "wide.txt"], "wide.txt, line 1"),
        (["evaluate", "MODEL", "wide.svm"], "wide.svm, line 2"),
        (["evaluate", "MODEL", "train.txt", "--training-data", "absent"], "absent: No such file"),
        (["evaluate", "MODEL", "train.txt", "--propensity", "1"], "argument --propensity"),
        (["predict", "MODEL", "wide.svm"], "train with --n-features larger than all ids"),
        (["train", "nolabels.svm", "--n-labels", "3"], "nolabels.svm: no labels in it"),
        (["train", "zeros.txt"], "zeros.txt: no features in it"),
        (["train", "one.svm"], "one.svm: a softmax of one label is always 1; say --loss bce"),
        (["train", "train.txt", "--validation", "nolabels.svm"], "nolabels.svm: no labels in it"),
        (["evaluate", "MODEL", "nolabels.svm"], "nolabels.svm: no labels in it"),
        (["train", "array.npy"], "array.npy: an array of NumPy or SciPy"),
        (["train", "matrix.npz"], "matrix.npz: an array of NumPy or SciPy"),
        (["train", "train.txt", "--seed", "9" * 30], "--seed: must be below 2^63"),
        (["predict", "MODEL", "train.txt", "--top-k", "9"], "--top-k 9: the model has 8 labels"),
        (["predict", "MODEL", "train.txt", "--output", "no/out"], "no/out: there is no directory"),
        (["demo", "--epochs", "0"], "argument --epochs"),
        (["train", "train.txt", "--output", "train.txt"], "--output train.txt would replace"),
        (
            ["train", "test.txt", "--validation", "train.txt", "--output", "./train.txt"],
            "--output ./train.txt would replace train.txt, which is read",
        ),
        (["predict", "MODEL", "train.txt", "--output", "train.txt"], "would replace train.txt"),
        (["predict", "MODEL", "train.txt", "--output", "MODEL"], "model.slide, which is read"),
        (["train", "train.txt", "--output", ""], "the path of the file to write is empty"),
        (["train", "train.txt", "--output", "m" * 300], "mmm: File name too long"),
    ],
)
def test_errors(folder, trained, capsys, arguments, words):
    write_bad_files()
    before = sorted(path.name for path in folder.iterdir())
    message = refused(capsys, *[trained if a == "MODEL" else a for a in arguments])
    assert words in message
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.parametrize("command", ["evaluate", "predict"])
@pytest.mark.parametrize("name", ["contradicts.txt", "alien.txt", "hash.svm", "hashed.svm"])
def test_no_hint_where_training_with_more_would_not_help(folder, trained, capsys, command, name):
    """The file has ids beyond its own header's, or beyond int32."""
    write_bad_files()
    message = refused(capsys, command, trained, name)
    assert f"{name}, line {1 if name.endswith('svm') else 2}: a " in message
    assert "id is outside" in message
    assert "train with" not in message


def test_a_model_without_a_loss(folder, capsys):
    model = slide.Sequential([slide.Input(FEATURES), slide.Dense(LABELS)])
    model.save("bare.slide")
    assert "bare.slide: the model was saved before compile" in refused(
        capsys, "evaluate", "bare.slide", "test.txt"
    )
    assert main(["predict", "bare.slide", "test.txt"]) == 0


def test_predict_leaves_an_old_output_where_it_fails(folder, trained, capsys, monkeypatch):
    def fail(*arguments, **options):
        raise MemoryError("no room")

    (folder / "out.txt").write_text("old")
    monkeypatch.setattr(slide.Sequential, "predict", fail)
    message = refused(capsys, "predict", trained, "test.txt", "--output", "out.txt")
    assert "not enough memory: no room" in message
    assert (folder / "out.txt").read_text() == "old"
    assert not (folder / "out.txt.part").exists()


class TinyWordNet:
    """As many attributes of WordNet as the demo uses."""

    words = ("cat", "wild", "striped", "flies", "music", "foot", "happiness", "person", "air")

    def __init__(self):
        self.X_train, self.Y_train = points()
        self.X_test, self.Y_test = points(seed=1)

    def vectorize(self, texts):
        x = np.zeros((len(texts), FEATURES), np.float32)
        for i, text in enumerate(texts):
            for j, word in enumerate(self.words):
                x[i, j] = word in text
        return sparse.csr_matrix(x)

    def label(self, i):
        return f"label {i}"

    def gloss(self, i):
        return f"the gloss of {i} " + "that goes on and on " * 10


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(slide.data, "load_wordnet", TinyWordNet)


def test_demo(folder, capsys, tiny):
    assert main(["demo", "--epochs", "2", "--n-jobs", "1", "--seed", "1"]) == 0
    out = capsys.readouterr().out
    assert "2/2" in out
    assert "P@1" in out
    assert "of 8" in out
    assert "Model saved: wordnet.slide" in out
    assert '"a large wild cat with a striped coat"' in out
    assert "the gloss of" in out
    assert "slide demo --ask" in out
    assert max(len(line) for line in out.splitlines()) <= 100
    saved = slide.load("wordnet.slide")

    # The saved model answers.
    assert main(["demo", "--ask", "a cat", "--ask", "air and music"]) == 0
    out = capsys.readouterr().out
    assert "trained for 2 epochs" in out
    assert '"a cat"' in out
    assert '"air and music"' in out
    assert "P@1" not in out
    assert slide.load("wordnet.slide").step == saved.step

    assert main(["demo", "--epochs", "1", "--output", "my model"]) == 0
    assert "slide demo --output 'my model' --ask" in capsys.readouterr().out


def test_demo_trains_before_it_answers(folder, capsys, tiny):
    assert main(["demo", "--ask", "a cat", "--epochs", "1", "--output", "other"]) == 0
    out = capsys.readouterr().out
    assert out.index("Model saved: other") < out.index('"a cat"')


def test_demo_refuses_before_it_trains(folder, capsys, tiny):
    assert "--ask 'xyzzy': none of its words" in refused(capsys, "demo", "--ask", "xyzzy")
    assert "no/where: there is no directory" in refused(capsys, "demo", "--output", "no/where")
    slide.Sequential([slide.Input(3), slide.Dense(2)]).save("wordnet.slide")
    message = refused(capsys, "demo", "--ask", "a cat")
    assert "wordnet.slide: a model of 3 features and 2 labels, not the demo's 12 and 8" in message


def test_version_and_help(capsys):
    for arguments in (["--version"], ["--help"], ["train", "--help"], ["evaluate", "--help"],
                      ["predict", "--help"], ["demo", "--help"]):
        with pytest.raises(SystemExit) as exit:
            main(arguments)
        assert exit.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"slide {slide.__version__}\n")
    assert "label,label feature:value" in out


def test_show_config(capsys):
    assert main(["show-config"]) == 0
    assert "openmp" in capsys.readouterr().out


def environment():
    """Of a process that imports the package under test, installed or not."""
    paths = [str(Path(slide.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def test_a_reader_that_goes_away_costs_no_model(folder):
    command = [sys.executable, "-m", "slide", "train", "train.txt", "--epochs", "3"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as process:
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0
    assert slide.load("model.slide").epochs_trained == 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without named pipes")
def test_a_pipe_is_not_looked_into(folder, capsys):
    os.mkfifo("pipe")
    assert main(["train", "pipe"]) == 2
    assert "pipe can be read once only: say --format xmc or svmlight" in capsys.readouterr().err


def test_as_a_process(folder):
    def run(*arguments):
        command = [sys.executable, "-m", "slide", *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment()
        )

    done = run("train", "train.txt", "--epochs", "1")
    assert (done.returncode, done.stderr) == (0, "")
    failed = run("predict", "model.slide", "absent.txt")
    assert failed.returncode == 2
    expected = "python -m slide predict: error: absent.txt: No such file or directory\n"
    assert failed.stderr == expected
