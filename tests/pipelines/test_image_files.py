"""What people do to folders of images: change files, break them, name them, put others beside."""

import os
import shutil

import numpy as np
import pytest
import torch
import yaml
from helpers.image_folders import epoch_of, load_folder, pixels_of, write_folder, write_image
from PIL import Image
from torchvision.transforms import functional

from dataset import load_images
from pipelines import stamps
from pipelines.images import cache, folders
from utils import UserError


def same_pixels(loader, split_folder, data):
    """Return whether a loader gives the images of a folder, as Pillow reads them."""
    images, _ = epoch_of(loader)
    expected = [
        functional.normalize(functional.to_tensor(pixels), data.mean, data.std)
        for pixels in pixels_of(split_folder)
    ]
    return len(images) == len(expected) and torch.allclose(images, torch.stack(expected), atol=5e-6)


# --- the cache follows the files ---


def other_bitmap(path):
    """Return the bytes of another image that has the same length."""
    return write_image(path.with_name("other.bmp"), seed=5000).read_bytes()


def keep_mtime(change):
    """Make a change of a file that leaves size and time of modification as they were."""

    def changed(path):
        stat = path.stat()
        change(path)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert (path.stat().st_size, path.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)

    return changed


@keep_mtime
def edit_in_place(path):
    with open(path, "r+b") as file:
        file.seek(-30, os.SEEK_END)
        file.write(bytes(30))


@keep_mtime
def write_again(path):
    other = other_bitmap(path)
    path.with_name("other.bmp").unlink()
    path.write_bytes(other)


def put_another_over(path):
    """Rename another file over it that has its size and time: `mv`, or `rsync --times`."""
    stat, new = path.stat(), path.with_name("new")
    new.write_bytes(other_bitmap(path))
    path.with_name("other.bmp").unlink()
    os.utime(new, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    new.replace(path)


def copy_over(path):
    """Copy another file over it, its time included: `cp -p`."""
    other = write_image(path.with_name("other.bmp"), seed=5000)
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    shutil.copy2(other, path)
    other.unlink()


def swap_classes(path):
    """Exchange it with the file of the same name, size and time in another class."""
    other = path.parents[1] / "cow/1.bmp"
    third = path.with_name("third")
    path.rename(third)
    other.rename(path)
    third.rename(other)


def turn_a_link(path):
    """Put in its place a link, first to its own content and then to another's."""
    stat = path.stat()
    path.unlink()
    target = write_image(path.parents[3] / "elsewhere/a.bmp", seed=6000)
    os.utime(target, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    path.symlink_to(target)


CHANGES = [edit_in_place, write_again, put_another_over, copy_over, swap_classes, turn_a_link]


@pytest.mark.parametrize("change", CHANGES)
def test_changes_that_keep_size_and_time_are_noticed(tmp_path, change):
    folder = write_folder(tmp_path / "data", suffix=".bmp")
    for path in folder.glob("*/*/*"):
        os.utime(path, (10**9, 10**9))  # as from an archive
    before = load_folder(folder)
    assert same_pixels(before.test, folder / "test", before)
    path = folder / "test/ant/1.bmp"
    stat = path.stat()
    change(path)
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    after = load_folder(folder)
    assert same_pixels(after.test, folder / "test", after)
    assert not same_pixels(before.test, folder / "test", before)
    assert "from its cache" in load_folder(folder).description


@pytest.mark.parametrize(
    ("ctime", "age", "seconds"),
    [
        (1_700_000_000_000_000_000, 1.9, 2),  # by a clock that may count two seconds at once
        (1_700_000_000_000_000_001, 1.9, 0.1),
        (1_700_000_000_000_000_001, -3.0, 0.1),  # by a file server's clock, which is ahead
        (1_700_000_000_000_000_000, 2.1, None),
    ],
)
def test_files_that_have_just_changed_are_waited_for(monkeypatch, ctime, age, seconds):
    """Within a tick of the clock a file may change once more, and have the same stamp."""
    waited = []
    monkeypatch.setattr("time.sleep", waited.append)
    monkeypatch.setattr("time.time_ns", lambda: ctime + int(age * 1e9))
    older = (1, 1, ctime - 10**12, 1)
    stamps.settle([older, (1, 1, ctime, 2), older])
    assert waited == ([] if seconds is None else [seconds])


def test_files_that_change_while_they_are_read_are_not_cached(tmp_path, monkeypatch):
    """A folder is exchanged for another one meanwhile, and put back: no file has changed then."""
    folder = write_folder(tmp_path / "data")
    other = write_folder(tmp_path / "other", [("train", 6)])
    real = cache.decode_all

    def exchanged(paths, *rest):
        (folder / "train").rename(tmp_path / "away")
        (other / "train").rename(folder / "train")
        return real(paths, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(cache, "decode_all", exchanged)
        with pytest.raises(UserError, match="change while"):
            load_folder(folder)
    (folder / "train").rename(other / "train")
    (tmp_path / "away").rename(folder / "train")
    data = load_folder(folder)
    assert "decoded" in data.description


def test_another_version_of_pillow_decodes_again(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "data")
    load_folder(folder)
    with monkeypatch.context() as patched:
        patched.setattr("PIL.__version__", "0.0")
        assert "decoded" in load_folder(folder).description
    assert "decoded" in load_folder(folder).description


# --- files that cannot be read ---


def break_files(folder, *names):
    """Cut each file short, so that only decoding shows that it is broken."""
    for name in names:
        path = folder / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


NAMES = ("train/ant/0.png", "train/cow/3.png", "test/bee/1.png")


def arguments(folder):
    return yaml.safe_load((folder / "args.txt").read_text())


class TestSkipBroken:
    @pytest.mark.parametrize("streamed", [False, True])
    def test_the_rest_is_the_set_without_these_files(self, tmp_path, capsys, streamed):
        dataset = "imagenet" if streamed else "imagefolder"
        options = {"batch_size": 4, "progress": False, "resize": 12, "num_workers": 0}
        folder = write_folder(tmp_path / "broken")
        break_files(folder, *NAMES)
        with pytest.raises(UserError, match="--skip_broken"):
            for _ in load_images(dataset, folder, **options).train.batches(0):
                pass
        found = load_images(dataset, folder, skip_broken=True, **options)
        assert found.left_out == list(NAMES)
        said = capsys.readouterr().err
        assert "3 files" in said
        assert all(name in said for name in NAMES)
        assert "3 files left out" in found.description
        for name in NAMES:
            (folder / name).unlink()
        expected = load_images(dataset, folder, **options)
        assert found.digest == expected.digest
        for split in ("train", "test"):
            mine, theirs = (epoch_of(getattr(data, split), 1) for data in (found, expected))
            assert all(map(torch.equal, mine, theirs))

    def test_what_is_broken_is_found_once(self, tmp_path, monkeypatch):
        folder = write_folder(tmp_path / "data")
        break_files(folder, *NAMES)
        load_folder(folder, skip_broken=True)
        checked = []
        real = cache.cached
        monkeypatch.setattr(
            "pipelines.images.broken.cached",
            lambda *arguments: checked.append(real(*arguments)) or checked[-1],
        )
        assert len(load_folder(folder, skip_broken=True).left_out) == 3
        assert [each.from_cache for each in checked] == [True, True]
        break_files(folder, "train/bee/2.png")
        assert len(load_folder(folder, skip_broken=True).left_out) == 4

    @pytest.mark.parametrize(
        "error", [PermissionError(13, "denied"), OSError(24, "too many files"), MemoryError()]
    )
    def test_what_may_pass_is_no_damage(self, tmp_path, monkeypatch, error):
        """No permission, too many open files, no memory: the run ends, and nothing is kept."""
        folder = write_folder(tmp_path / "data")
        break_files(folder, NAMES[0])
        real = Image.open

        def fails(path, *rest):
            if str(path).endswith("train/cow/5.png"):
                raise error
            return real(path, *rest)

        with monkeypatch.context() as patched:
            patched.setattr(Image, "open", fails)
            with pytest.raises(UserError, match=r"cow/5\.png"):
                load_folder(folder, skip_broken=True)
        assert load_folder(folder, skip_broken=True).left_out == [NAMES[0]]

    def test_a_link_to_nowhere_is_broken(self, tmp_path):
        folder = write_folder(tmp_path / "data")
        link = folder / "train/ant/link.png"
        link.symlink_to(tmp_path / "nowhere.png")
        with pytest.raises(UserError, match=r"link\.png: cannot be read as an image"):
            load_folder(folder)
        assert load_folder(folder, skip_broken=True).left_out == ["train/ant/link.png"]
        write_image(tmp_path / "nowhere.png")
        assert load_folder(folder, skip_broken=True).left_out == []

    def test_a_class_of_which_nothing_is_left(self, tmp_path):
        folder = write_folder(tmp_path / "data")
        break_files(folder, *(f"test/bee/{i}.png" for i in range(3)))
        with pytest.raises(UserError, match=r"test/bee: none of its images can be read"):
            load_folder(folder, skip_broken=True)

    def test_a_run_says_so_and_resumes_the_same(self, tmp_path, forked):
        """One run in one go, one in two parts between which the broken files are deleted."""
        folder = write_folder(tmp_path / "data")
        break_files(folder, *NAMES)
        flags = ["--dataset", "imagefolder", "--data_path", folder, "--model", "resnet20"]
        flags += ["--batch_size", 4, "--skip_broken", "--num_epochs", 2, "--output_dir"]
        codes, log = forked("vision_main", *flags, tmp_path / "whole")
        assert codes == [0], log
        assert "3 files" in log
        assert all(name in log for name in NAMES)
        resolved = arguments(tmp_path / "whole")["resolved"]
        assert (resolved["left_out"], resolved["files_left_out"]) == (3, list(NAMES))
        codes, log = forked("vision_main", *flags, tmp_path / "parts", faults={0: ("step", 10, 5)})
        assert codes == [75], log
        for name in NAMES:
            (folder / name).unlink()
        codes, log = forked("vision_main", *flags, tmp_path / "parts", "--resume")
        assert codes == [0], log
        whole, parts = (
            torch.load(tmp_path / name / "checkpoint.pt", weights_only=False)["model"]
            for name in ("whole", "parts")
        )
        assert all(torch.equal(whole[key], parts[key]) for key in whole)

    def test_without_the_flag_a_run_goes_on_when_the_file_is_replaced(self, tmp_path, forked):
        folder = write_folder(tmp_path / "data")
        flags = ["--dataset", "imagenet", "--data_path", folder, "--model", "resnet20", "--resize"]
        flags += [12, "--num_workers", 0, "--batch_size", 4, "--num_epochs", 2, "--output_dir"]
        flags += [tmp_path / "run"]
        codes, log = forked("vision_main", *flags, faults={0: ("step", 10, 6)})
        assert codes == [75], log
        good = (folder / NAMES[0]).read_bytes()
        break_files(folder, NAMES[0])
        codes, log = forked("vision_main", *flags, "--resume")
        assert codes == [2], log
        assert NAMES[0] in log
        (folder / NAMES[0]).write_bytes(good)
        codes, log = forked("vision_main", *flags, "--resume")
        assert codes == [0], log

    def test_only_where_there_are_files(self, forked):
        codes, log = forked("vision_main", "--dataset", "digits", "--skip_broken")
        assert codes == [2]
        assert "for image files, and digits has none" in log


# --- what is read, and what is passed over ---


@pytest.mark.parametrize("ending", [".gif", ".jfif", ".avif", ".JPE", ".jp2", ".tga", ".qoi"])
def test_what_pillow_reads_is_read(tmp_path, ending, capsys):
    folder = write_folder(tmp_path / "data")
    image = Image.open(folder / "train/ant/0.png").convert("RGB")
    image.save(folder / f"train/ant/new{ending}")
    assert load_folder(folder).train.num_samples == 19
    assert "passed over" not in capsys.readouterr().out


def test_every_format_that_pillow_decodes_is_known(tmp_path):
    """Write an image in every format that Pillow writes: those that it reads back are listed."""
    endings = folders.image_endings()
    read_back = set()
    for ending, name in Image.registered_extensions().items():
        path = tmp_path / f"a{ending}"
        try:
            Image.new("RGB", (32, 32), (9, 99, 199)).save(path, name)
            Image.open(path).load()
        except Exception:
            continue
        read_back.add(ending)
    assert len(read_back) > 30
    assert read_back - endings <= {".eps", ".ps"}  # where Ghostscript is installed


def test_what_is_passed_over_is_counted(tmp_path, capsys):
    folder = write_folder(tmp_path / "data")
    for name in ("a.txt", "b.TXT", "deeper/c.json", "no_ending", ".hidden"):
        path = folder / "train/ant" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("no image")
    (folder / "test/labels.csv").write_text("no image")
    write_image(folder / "train/loose.png")
    os.mkfifo(folder / "train/ant/pipe.png")  # reading it would wait for ever
    write_image(folder / "unlabelled/x/0.png")
    data = load_folder(folder)
    assert (data.train.num_samples, data.test.num_samples) == (18, 9)
    notes = [x for x in capsys.readouterr().out.splitlines() if "passed over" in x]
    assert len(notes) == 1
    assert "7 files" in notes[0]
    others = ("outside of a class's folder", "no plain file", "unlabelled")
    for part in ("2 .txt", "1 .json", "1 .csv", "1 without an ending", *others):
        assert part in notes[0]


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_names_of_the_validation_split(tmp_path, name, capsys):
    both = write_folder(tmp_path / "both", [("train", 4), (name, 2), ("test", 3)])
    data = load_folder(both)
    assert (data.val.num_samples, data.test.num_samples) == (6, 9)
    assert same_pixels(data.val, both / name, data)
    alone = write_folder(tmp_path / "alone", [("train", 4), (name, 2)])
    assert load_folder(alone).test.num_samples == 6
    assert "passed over" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["valid", "validation"])
def test_a_folder_of_that_name_without_classes_is_passed_over(tmp_path, name, capsys):
    folder = write_folder(tmp_path)
    write_image(folder / name / "loose.png")
    assert load_folder(folder).val is None
    assert name in capsys.readouterr().out


def test_two_validation_splits_are_refused(tmp_path):
    folder = write_folder(tmp_path, [("train", 4), ("val", 2), ("valid", 2), ("test", 3)])
    with pytest.raises(UserError, match=r"both val/ and valid/"):
        load_folder(folder)


# --- images that show nothing ---


def fill(folder, image, suffix=".png"):
    """Put the same image in place of every file."""
    for path in folder.glob("*/*/*.png"):
        path.unlink()
        image.save(path.with_suffix(suffix))
    return folder


@pytest.mark.parametrize("dataset", ["imagefolder", "imagenet"])
@pytest.mark.parametrize(
    "image",
    [
        Image.new("L", (12, 12), 0),
        Image.new("RGB", (12, 12), (10, 20, 30)),
        Image.new("RGBA", (12, 12), (10, 20, 30, 0)),
        Image.fromarray(np.arange(144, dtype=np.uint16).reshape(12, 12)),  # 16 bits, all dark
    ],
    ids=["black", "one colour", "transparent", "dark"],
)
def test_images_that_show_nothing_are_refused(tmp_path, dataset, image):
    folder = fill(write_folder(tmp_path), image)
    with pytest.raises(UserError, match="all training images are of one colour"):
        load_images(dataset, folder, batch_size=4, progress=False, resize=12, num_workers=0)


def test_one_pixel_is_enough(tmp_path, capsys):
    folder = fill(write_folder(tmp_path), Image.new("RGB", (12, 12)))
    image = Image.new("RGB", (12, 12))
    image.putpixel((11, 11), (1, 1, 1))
    image.save(folder / "train/cow/5.png")
    data = load_folder(folder)
    assert max(data.std) < 1e-3
    said = capsys.readouterr().err
    assert "all test images" in said
    assert "all training images" not in said


def test_blank_images_in_between_are_no_error(tmp_path, monkeypatch):
    """Of a large set evenly spaced images are looked at, which may be just the blank ones."""
    monkeypatch.setattr("pipelines.images.splits.CHECKED_IMAGES", 9)
    folder = write_folder(tmp_path)
    for path in folder.glob("train/*/[024].png"):
        Image.new("RGB", (12, 12)).save(path)
    assert load_folder(folder).train.num_samples == 18


@pytest.mark.parametrize("streamed", [False, True])
def test_a_constant_channel_is_warned_of(tmp_path, capsys, streamed):
    folder = write_folder(tmp_path)
    for path in folder.glob("*/*/*.png"):
        red, green, _ = Image.open(path).convert("RGB").split()
        Image.merge("RGB", (red, green, Image.new("L", red.size, 7))).save(path)
    dataset = "imagenet" if streamed else "imagefolder"
    load_images(dataset, folder, batch_size=4, progress=False, resize=12, num_workers=0)
    said = capsys.readouterr().err
    assert "all training images have the same value everywhere: blue 7" in said
    assert "red" not in said


def test_glyphs_on_a_transparent_ground_can_be_told_apart(tmp_path):
    """Black shapes whose form is in the alpha channel alone are not all black squares."""
    folder = write_folder(tmp_path)
    for number, name in enumerate(("ant", "bee", "cow")):
        for path in folder.glob(f"*/{name}/*.png"):
            glyph = Image.new("RGBA", (12, 12), (0, 0, 0, 0))
            glyph.paste((0, 0, 0, 255), (0, 0, 4 * number + 2, 6))
            glyph.save(path)
    images, targets = epoch_of(load_folder(folder).test)
    dark = (images < images.amax()).flatten(1).sum(1)
    assert dark.tolist() == [3 * 6 * (4 * target + 2) for target in targets.tolist()]


# --- names that are no UTF-8 ---


@pytest.fixture(scope="module")
def odd_names(tmp_path_factory):
    """A folder of images whose own name, classes and files are bytes that are no UTF-8."""
    folder = tmp_path_factory.mktemp("names") / os.fsdecode(b"d\xe9")
    write_folder(folder)
    for split in ("train", "test"):
        (folder / split / "ant").rename(folder / split / os.fsdecode(b"caf\xe9"))
        (folder / split / "cow").rename(folder / split / "naïve")
        for path in list((folder / split).glob("*/0.png")):
            path.rename(path.with_name(os.fsdecode(b"\xff.png")))
    return folder


@pytest.mark.parametrize(
    "dataset", ["imagefolder", pytest.param("imagenet", marks=pytest.mark.slow)]
)
def test_names_that_are_no_utf8(odd_names, tmp_path, forked, dataset):
    """Train, resume, evaluate and report, from and into folders with such names."""
    output = tmp_path / os.fsdecode(b"o\xff")
    flags = ["--dataset", dataset, "--data_path", odd_names, "--model", "resnet20", "--resize", 12]
    flags += ["--num_workers", 0, "--num_epochs", 2, "--batch_size", 4, "--output_dir", output]
    codes, log = forked("vision_main", *flags, faults={0: ("step", 10, 6)})
    assert codes == [75], log
    codes, log = forked("vision_main", *flags, "--resume")
    assert codes == [0], log
    codes, log = forked("vision_main", "--test_only", "--checkpoint", output / "checkpoint.pt")
    assert codes == [0], log
    tested = (output / "test_results.txt").read_text(encoding="utf-8")
    final = (output / "train_eval_results.txt").read_text(encoding="utf-8").splitlines()[-2]
    assert tested.split("Accuracy: ")[1].split(" |")[0] in final
    codes, log = forked("report", output, "--output_dir", tmp_path / "report")
    assert codes == [0], log
    runs = (tmp_path / "report/runs.csv").read_text(encoding="utf-8")
    assert str(output).encode("utf-8", "backslashreplace").decode() in runs


def test_class_names_that_are_no_utf8_stay_apart(tmp_path):
    folder = write_folder(tmp_path / "data")
    for split in ("train", "test"):
        for name, raw in (("ant", b"\xe9"), ("bee", b"\xe8"), ("cow", b"\xff\xfe")):
            (folder / split / name).rename(folder / split / os.fsdecode(raw))
    names = load_folder(folder).class_names
    assert len(set(names)) == 3
    assert all(name.encode() for name in names)
