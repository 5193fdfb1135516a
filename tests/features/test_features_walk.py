"""Which files are images of which class."""

import os

import pytest

from mlis.errors import DataError
from mlis.features.images.files import find_images


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def test_the_first_folder_is_the_class(tmp_path):
    touch(tmp_path, "b/1.jpg", "a/deep/er/2.jpg", "3.jpg", "a/.hidden.jpg", "a/Thumbs.db")
    found = find_images(tmp_path)
    assert [(image.path, image.class_name) for image in found.images] == [
        ("3.jpg", ""),
        ("a/deep/er/2.jpg", "a"),
        ("b/1.jpg", "b"),
    ]
    assert found.class_names == ("a", "b")
    assert not found.bad


def test_links_are_followed_once_and_loops_are_listed(tmp_path):
    touch(tmp_path / "elsewhere", "x/1.jpg")
    touch(tmp_path / "root", "real/2.jpg")
    (tmp_path / "root" / "a-link").symlink_to(tmp_path / "root" / "real")
    (tmp_path / "root" / "outside").symlink_to(tmp_path / "elsewhere" / "x")
    (tmp_path / "root" / "real" / "loop").symlink_to(tmp_path / "root")
    found = find_images(tmp_path / "root")
    assert [image.path for image in found.images] == ["outside/1.jpg", "real/2.jpg"]
    assert {bad.path: bad.reason for bad in found.bad} == {
        "a-link": "link to a folder already read as real",
        "real/loop": "link to a folder already read as the folder itself",
    }


def test_names_in_any_script_and_any_bytes(tmp_path):
    touch(tmp_path, "розы/цветок.jpg", "cafe\u0301/1.jpg")
    touch(tmp_path, os.fsdecode(b"\xe9t\xe9/1.jpg"))
    found = find_images(tmp_path)
    assert found.class_names == ("\\xe9t\\xe9", "caf\u00e9", "розы")
    assert all(image.source.exists() for image in found.images)


def test_a_table_says_the_classes(tmp_path):
    touch(tmp_path, "1.jpg", "2.jpg", "sub/3.jpg", "unlisted.jpg")
    table = tmp_path / "labels.csv"
    table.write_text("file,kind,split\n2.jpg,b,test_seen\nsub/3.jpg,a,trainval\ngone.jpg,a,val\n")
    found = find_images(tmp_path, table, class_column="kind")
    assert [(image.path, image.class_name, image.mark) for image in found.images] == [
        ("2.jpg", "b", "test"),
        ("gone.jpg", "a", "val"),
        ("sub/3.jpg", "a", "train"),
    ]
    assert found.unlisted == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,class\n1.jpg,a\n1.jpg,b\n", "row 1: '1.jpg' is listed twice"),
        ("path,klass\n1.jpg,a\n", "expected a column 'class'.*Did you mean 'klass'"),
        ("path,class,split\n1.jpg,a,later\n", "row 0, column 'split': .* got 'later'"),
        ("path,class\n,a\n", "row 0, column 'path': expected a path"),
    ],
)
def test_faults_of_the_table_are_named(tmp_path, text, message):
    touch(tmp_path, "1.jpg")
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        find_images(tmp_path, tmp_path / "labels.csv")


def test_folders_of_a_split_mark_their_images(tmp_path):
    touch(tmp_path, "train/zebra/1.jpg", "Val/zebra/2.jpg", "test/okapi/deep/3.jpg", "README")
    found = find_images(tmp_path)
    assert [(image.path, image.class_name, image.mark) for image in found.images] == [
        ("README", "", ""),
        ("Val/zebra/2.jpg", "zebra", "val"),
        ("test/okapi/deep/3.jpg", "okapi", "test"),
        ("train/zebra/1.jpg", "zebra", "train"),
    ]


@pytest.mark.parametrize("other", ["extra/1.jpg", "train/1.jpg"])
def test_folders_of_a_split_lie_alone(tmp_path, other):
    touch(tmp_path, "train/zebra/1.jpg", "test/zebra/2.jpg", other)
    with pytest.raises(DataError, match=r"test, train look like parts of a split.*--labels"):
        find_images(tmp_path)


def test_paths_of_windows_are_read(tmp_path):
    touch(tmp_path, "a/1.jpg", "a/b\\c.jpg")
    table = tmp_path / "labels.csv"
    table.write_text("path,class\na\\1.jpg,x\na/b\\c.jpg,y\n")
    found = find_images(tmp_path, table)
    assert [image.path for image in found.images] == ["a/1.jpg", "a/b\\c.jpg"]
    assert found.unlisted == 0
    assert all(image.source.exists() for image in found.images)
    for path in ("..\\1.jpg", "C:\\a\\1.jpg"):
        table.write_text(f"path,class\n{path},x\n")
        with pytest.raises(DataError, match="expected a path inside"):
            find_images(tmp_path, table)
