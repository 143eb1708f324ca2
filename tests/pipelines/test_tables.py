"""load_table reads, splits and standardises tables, and names every mistake in a file."""

import numpy as np
import pandas
import pytest
import sklearn.datasets
import torch
from sklearn.preprocessing import StandardScaler

from dataset import load_images, load_table
from utils import UserError

PACKAGED = ("breast_cancer", "wine", "iris", "digits")


def epoch_of(loader, epoch=0):
    features, targets = zip(*loader.batches(epoch), strict=True)
    return torch.cat(features), torch.cat(targets)


def raw(data, loader):
    """The rows of a loader as they were before they were standardised, and their classes."""
    features, targets = epoch_of(loader)
    return features.double().numpy() * np.array(data.std) + np.array(data.mean), targets.numpy()


def in_order(features, targets):
    """The rows in an order of their own; that of a random direction stands for all columns."""
    rows = np.column_stack([features, targets])
    direction = np.random.RandomState(0).randn(rows.shape[1])
    return rows[np.argsort(rows / (1 + rows.std(0)) @ direction)]


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


# --- scikit-learn's tables ---


@pytest.mark.parametrize("name", PACKAGED)
class TestPackaged:
    def test_every_row_is_in_one_split(self, name):
        data = load_table(name, batch_size=64, val_fraction=0.25)
        splits = [raw(data, loader) for loader in (data.train, data.val, data.test)]
        features, targets = (np.concatenate(parts) for parts in zip(*splits, strict=True))
        wanted = getattr(sklearn.datasets, f"load_{name}")()
        found = in_order(features, targets)
        assert found == pytest.approx(in_order(wanted.data, wanted.target), abs=2e-3)
        assert data.class_names == [str(each) for each in wanted.target_names]
        assert data.columns == [str(each) for each in wanted.feature_names]

    def test_the_splits_have_their_share_of_every_class(self, name):
        data = load_table(name, batch_size=64, val_fraction=0.25, test_fraction=0.3)
        whole = np.bincount(getattr(sklearn.datasets, f"load_{name}")().target)
        counts = {
            each: np.bincount(epoch_of(getattr(data, each))[1]) for each in ("train", "val", "test")
        }
        assert np.abs(counts["test"] - 0.3 * whole).max() <= 0.5
        assert np.abs(counts["val"] - 0.25 * (whole - counts["test"])).max() <= 0.5
        assert data.class_sizes == counts["train"].tolist()

    def test_standardised_as_scikit_learns_scaler_does_by_the_training_rows(self, name):
        data = load_table(name, batch_size=64, val_fraction=0.25)
        train, _ = raw(data, data.train)
        scaler = StandardScaler().fit(train.round(6))  # the last digits are float32's
        assert data.mean == pytest.approx(scaler.mean_, rel=1e-5, abs=1e-5)
        assert data.std == pytest.approx(scaler.scale_, rel=1e-4)
        for loader in (data.train, data.val, data.test):
            features, _ = epoch_of(loader)
            wanted = scaler.transform(raw(data, loader)[0])
            assert features.numpy() == pytest.approx(wanted, abs=1e-3)


def test_digits_are_split_as_for_images():
    """Row by row, the pixels are those of vision_main.py."""
    data = load_table("digits", batch_size=512, val_fraction=0.1)
    images = load_images("digits", batch_size=512, val_fraction=0.1, resize=8)
    for name in ("val", "test"):
        features, targets = raw(data, getattr(data, name))
        pixels, classes = epoch_of(getattr(images, name))
        gray = pixels[:, 0].flatten(1) * images.std[0] + images.mean[0]
        assert np.array_equal(targets, classes)
        assert (gray * 255).round().numpy() == pytest.approx((features * 255 / 16).round(), abs=1)


def test_the_split_seed_alone_decides():
    def test_rows(**seeds):
        data = load_table("wine", batch_size=64, val_fraction=0.2, **seeds)
        return [in_order(*raw(data, loader)) for loader in (data.val, data.test)]

    first = test_rows(data_seed=1)
    for mine, same in zip(first, test_rows(data_seed=2), strict=True):
        assert mine == pytest.approx(same)
    for mine, other in zip(first, test_rows(split_seed=1), strict=True):
        assert mine.shape == other.shape
        assert not np.allclose(mine, other)


def test_the_digest_is_of_all_rows(tmp_path):
    same = [load_table("iris", batch_size=8, split_seed=seed).digest for seed in (0, 1)]
    assert same[0] == same[1] != load_table("wine", batch_size=8).digest


# --- batches ---


def test_batches_depend_on_seed_and_epoch_alone():
    data = load_table("iris", batch_size=50, data_seed=3)
    again = load_table("iris", batch_size=7, data_seed=3)
    for epoch in (0, 4):
        mine, theirs = epoch_of(data.train, epoch), epoch_of(again.train, epoch)
        assert all(map(torch.equal, mine, theirs))
    assert not torch.equal(epoch_of(data.train, 0)[1], epoch_of(data.train, 4)[1])
    other = load_table("iris", batch_size=50, data_seed=4)
    assert not torch.equal(epoch_of(data.train)[0], epoch_of(other.train)[0])
    for loader in (data.train, data.test):
        whole = [*loader.batches(2)]
        assert len(whole) == len(loader)
        for mine, theirs in zip(loader.batches(2, first=1), whole[1:], strict=True):
            assert all(map(torch.equal, mine, theirs))
    assert torch.equal(epoch_of(data.test, 0)[0], epoch_of(data.test, 1)[0])


@pytest.mark.parametrize("world_size", [2, 3])
def test_the_processes_share_each_batch(world_size):
    whole = [*load_table("wine", batch_size=40).train.batches(1)]
    shares = [
        load_table("wine", batch_size=40, rank=rank, world_size=world_size).train.batches(1)
        for rank in range(world_size)
    ]
    for batch, parts in zip(whole, zip(*shares, strict=True), strict=True):
        together = [torch.cat(each) for each in zip(*parts, strict=True)]
        assert all(map(torch.equal, batch, together))


def test_constant_features_become_zero(tmp_path):
    """0.1 is no binary fraction: the mean of many is another number, and so is what is left."""
    lines = [f"0.1,{i},{1e9 + i},{'ab'[i % 2]}" for i in range(30)]
    path = write(tmp_path / "t.csv", "\n".join(["c,x,far,y", *lines]))
    data = load_table("csv", path, batch_size=64)
    features, _ = epoch_of(data.train)
    assert (features[:, 0] == 0).all()
    assert features[:, 1:].mean(0).tolist() == pytest.approx([0, 0], abs=1e-6)
    assert features[:, 1:].std(0, correction=0).tolist() == pytest.approx([1, 1], abs=1e-6)


# --- CSV files ---


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_csv_file_is_the_table_that_was_written(tmp_path, delimiter):
    wine = sklearn.datasets.load_wine(as_frame=True)
    frame = wine.data.assign(kind=[wine.target_names[each] for each in wine.target])
    path = tmp_path / "wine.csv"
    frame.to_csv(path, index=False, sep=delimiter, encoding="utf-8-sig")
    mine = load_table("csv", str(path), batch_size=64, val_fraction=0.2)
    theirs = load_table("wine", batch_size=64, val_fraction=0.2)
    assert (mine.columns, mine.class_names) == (theirs.columns, theirs.class_names)
    assert mine.digest == theirs.digest
    for name in ("train", "val", "test"):
        pair = [epoch_of(getattr(data, name)) for data in (mine, theirs)]
        assert all(map(torch.equal, *pair))


def test_texts_become_a_feature_each(tmp_path):
    random = np.random.RandomState(0)
    frame = pandas.DataFrame(
        {
            "sick": random.choice(["yes", "no"], 60),
            "size": random.randn(60),
            "colour": random.choice(["red", "green", "dark blue"], 60),
            "old": random.rand(60) < 0.5,
        }
    )
    path = tmp_path / "t.csv"
    frame.to_csv(path, index=False)
    data = load_table("csv", str(path), batch_size=64, label="sick", test_fraction=0.5)
    parts = [raw(data, loader) for loader in (data.train, data.test)]
    features, targets = (np.concatenate(each) for each in zip(*parts, strict=True))
    wanted = pandas.get_dummies(frame.drop(columns="sick"), prefix_sep="=", dtype=float)
    wanted = wanted[data.columns].astype(float)
    assert [name for name in data.columns if "=" in name] == [
        "colour=dark blue", "colour=green", "colour=red",
    ]  # fmt: skip
    assert data.class_names == ["no", "yes"]
    found = in_order(features, targets)
    assert found == pytest.approx(in_order(wanted, frame["sick"] == "yes"), abs=2e-3)


def test_labels_may_be_whole_numbers_in_any_form(tmp_path):
    rows = [f"{i},{label}" for i, label in enumerate(["10", "9", "-1"] * 10)]
    data = load_table("csv", write(tmp_path / "a.csv", "\n".join(["x,y", *rows])), batch_size=9)
    assert data.class_names == ["-1", "9", "10"]
    rows = [f"{i},{label}" for i, label in enumerate(["10.0", "9.0", "-1.0"] * 10)]
    same = load_table("csv", write(tmp_path / "b.csv", "\n".join(["x,y", *rows])), batch_size=9)
    assert same.class_names == data.class_names
    assert same.digest == data.digest


GOOD = [f"{i},{i * i},{'ab'[i % 2]}" for i in range(20)]


@pytest.mark.parametrize(
    ("head", "rows", "options", "message"),
    [
        ("a,b,y", ["1,,a", *GOOD], {}, "column b has no value in 1 of 21 rows (row 1 below the"),
        ("a,b,y", [*GOOD, "1,?,a"], {}, "column b has no number in 1 of 21 rows (row 21 below"),
        ("a,b,y", [*GOOD, "1,nan,a", "1,inf,b"], {}, "column b has no number in "),
        ("a,b,y", [*GOOD, "1,2,"], {}, "column y has no value in 1 of 21 rows"),
        ("a,b,y", [*GOOD, "1,2"], {}, "column y has no value in 1 of 21 rows"),
        ("a,b,y", [*GOOD, "1,2,a,4"], {}, "not a readable CSV file"),
        ("a,b", GOOD, {}, "more values than its first line has names"),
        ("a,b,y", [], {}, "it has no rows below its first line"),
        ("1,2,a", GOOD, {}, "its first line has numbers (1,2,a) where the names"),
        ("a,b,y", GOOD, {"label": "Y"}, "--label Y: no such column; did you mean y?"),
        ("a,b,y", GOOD, {"label": "b"}, "has 20 different values in 20 rows, too many"),
        ("a,b,y", [f"{i},1,{i / 7}" for i in range(9)], {}, "measurements such as 0.142857"),
        ("a,b,y", ["1,2,a", "2,3,a"], {}, "the label y is a in all rows"),
        ("a,b,y", [f"t{i},{row}" for i, row in enumerate(["1,a", "2,b"] * 30)], {},
         "the column a has 60 different texts, more than the 50"),
        ("y", ["a", "b"] * 9, {}, "it has no column beside the label"),
        ("a,y", ["3,a", "3,b"] * 9, {}, "all training rows are equal"),
        ("a,b,y", GOOD, {"test_fraction": 0.99}, "--test_fraction 0.99: would leave no training"),
        ("a,b,y", GOOD, {"test_fraction": 0.01}, "--test_fraction 0.01: holds out no row"),
        ("a,b,y", GOOD, {"val_fraction": 0.01}, "--val_fraction 0.01: holds out no row"),
    ],
)  # fmt: skip
def test_mistakes_in_a_file(tmp_path, head, rows, options, message):
    path = write(tmp_path / "t.csv", "\n".join([head, *rows]))
    with pytest.raises(UserError) as refused:
        load_table("csv", path, batch_size=8, **options)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00\x01,y\n\xff,a\n" * 9, b"\0\0\0\0"])
def test_what_is_no_csv_file_is_named(tmp_path, content):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"--data_path .*t\.csv"):
        load_table("csv", str(path), batch_size=8)


def test_mistakes_of_a_caller(tmp_path):
    for name, options, message in (
        ("wines", {}, "did you mean wine"),
        ("csv", {}, "name it by --data_path"),
        ("csv", {"data_path": str(tmp_path)}, "no such file"),
        ("wine", {"label": "x"}, "--label is for --dataset csv"),
        ("wine", {"test_fraction": 1.0}, "must be above 0 and below 1"),
        ("wine", {"normalisation": ([0.0], [1.0])}, "has 13 features, and the network was"),
    ):
        with pytest.raises(UserError, match=message):
            load_table(name, **{"batch_size": 8} | options)
