"""Long-tailed training sets have the published sizes, and the same images for the same seed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dataset
from pipelines.images.imbalance import class_sizes, long_tail
from utils import UserError


@pytest.mark.parametrize(
    ("classes", "each", "factor", "total"),
    # LDAM's and Cui et al.'s sets: CIFAR-10-LT and CIFAR-100-LT with ratios 100, 50 and 10.
    [(10, 5000, 0.01, 12_406), (10, 5000, 0.02, 13_996), (10, 5000, 0.1, 20_431),
     (100, 500, 0.01, 10_847), (100, 500, 0.02, 12_608), (100, 500, 0.1, 19_573)],
)  # fmt: skip
def test_published_totals(classes, each, factor, total):
    sizes = class_sizes([each] * classes, factor, "exp")
    assert sizes.sum() == total
    assert sizes[0] == each
    assert sizes[-1] == each * factor


def test_steps():
    assert class_sizes([100] * 5, 0.1, "step").tolist() == [100, 100, 10, 10, 10]


@given(
    st.lists(st.integers(1, 200), min_size=1, max_size=12),
    st.floats(0.001, 1),
    st.sampled_from(["exp", "step"]),
)
def test_never_more_than_there_are_and_never_none(sizes, factor, kind):
    kept = class_sizes(sizes, factor, kind)
    assert (kept >= 1).all()
    assert (kept <= sizes).all()


def test_the_seed_alone_says_which_images():
    targets = np.random.default_rng(0).permutation(np.repeat(np.arange(5), 40))
    kept = long_tail(targets, 0.1, "exp", 0)
    assert np.array_equal(kept, long_tail(targets, 0.1, "exp", 0))
    assert not np.array_equal(kept, long_tail(targets, 0.1, "exp", 1))
    assert np.array_equal(np.bincount(targets[kept]), class_sizes([40] * 5, 0.1, "exp"))
    assert (np.diff(kept) > 0).all()


def test_an_empty_class_is_named():
    with pytest.raises(UserError, match="class 1 has no training image"):
        long_tail(np.array([0, 0, 2]), 0.1, "exp", 0)


def test_only_the_training_set_of_a_data_set_is_thinned():
    options = {"batch_size": 64, "val_fraction": 0.2, "progress": False}
    whole = dataset.load_images("digits", **options)
    tail = dataset.load_images("digits", **options, imb_factor=0.05)
    assert tail.test.num_samples == whole.test.num_samples
    assert tail.val.num_samples == whole.val.num_samples
    assert tail.class_sizes == class_sizes(whole.class_sizes, 0.05, "exp").tolist()
    assert tail.train.num_samples == sum(tail.class_sizes)
    assert tail.digest != whole.digest
    assert "long-tailed: exp, 0.05" in tail.description
    assert "long-tailed" not in whole.description
