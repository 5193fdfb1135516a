"""MATLAB files: strings in every form, and files that are damaged or hostile."""

import struct

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse

from mlis.data.io.matlab import field_shapes, read_array, read_columns, read_strings
from mlis.errors import DataError
from standins import write_mat, write_tiny

NAMES = ["antelope", "grizzly+bear", "Ǔ 漢字", ""]


@pytest.mark.parametrize("hdf5", [False, True], ids=["v5", "v7.3"])
def test_strings_of_a_cell_array(tmp_path, hdf5):
    write_mat(tmp_path / "f.mat", {"names": NAMES[:3]}, hdf5=hdf5)
    assert read_strings(tmp_path / "f.mat", "names") == tuple(NAMES[:3])


def test_empty_strings_and_character_matrices(tmp_path):
    cells = np.empty((2, 1), dtype=object)
    cells[0, 0], cells[1, 0] = np.array(["a"]), np.array([], dtype="<U1")
    scipy.io.savemat(tmp_path / "v5.mat", {"cells": cells, "matrix": np.array(["ab ", "cde"])})
    assert read_strings(tmp_path / "v5.mat", "cells") == ("a", "")
    assert read_strings(tmp_path / "v5.mat", "matrix") == ("ab", "cde")
    with h5py.File(tmp_path / "v73.mat", "w") as file:
        file["empty"] = np.zeros(2, dtype=np.uint64)
        file["empty"].attrs["MATLAB_empty"] = 1
        cell = np.empty((1, 1), dtype=h5py.ref_dtype)
        cell[0, 0] = file["empty"].ref
        file.create_dataset("cells", data=cell, dtype=h5py.ref_dtype)
        rows = [[ord(c) for c in text] for text in ("ab ", "cde")]
        file["matrix"] = np.array(rows, dtype=np.uint16).T
    assert read_strings(tmp_path / "v73.mat", "cells") == ("",)
    assert read_strings(tmp_path / "v73.mat", "matrix") == ("ab", "cde")


@pytest.mark.parametrize("hdf5", [False, True], ids=["v5", "v7.3"])
def test_shapes_are_matlabs(tmp_path, hdf5):
    features, _ = write_tiny(tmp_path, hdf5=hdf5)
    shapes = field_shapes(features)
    assert shapes["features"] == (8, 120)
    assert shapes["labels"] == (120, 1)
    assert read_array(features, "labels").shape == (120, 1)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("hdf5", [False, True], ids=["v5", "v7.3"])
@pytest.mark.parametrize("dtype", ["float64", "uint8"])
def test_numbers_of_any_type_become_float32_rows(tmp_path, hdf5, dtype, compress, monkeypatch):
    monkeypatch.setattr("mlis.data.io.mat5.CHUNK_BYTES", 512)  # several pieces
    monkeypatch.setattr("mlis.data.io.mat73.CHUNK_BYTES", 512)
    values = (100 * np.random.default_rng(0).random((7, 300))).astype(dtype)
    write_mat(tmp_path / "f.mat", {"features": values}, hdf5=hdf5, compress=compress)
    rows = read_columns(tmp_path / "f.mat", "features")
    assert rows.dtype == np.float32
    assert rows.flags.c_contiguous
    np.testing.assert_array_equal(rows, values.T.astype(np.float32))


@pytest.mark.parametrize(
    "content",
    [b"", b"x", b"version https://git-lfs.github.com/spec/v1\n", b"<html></html>", bytes(600)],
)
def test_what_is_no_matlab_file_is_refused(tmp_path, content):
    path = tmp_path / "f.mat"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"f\.mat: not a MATLAB file, or damaged"):
        read_array(path, "features")


@pytest.mark.parametrize(
    "value", [np.array([1j]), {"a": 1.0}, np.array([{"a": 1}], dtype=object), "text"]
)
def test_what_is_no_real_array_is_refused(tmp_path, value):
    scipy.io.savemat(tmp_path / "f.mat", {"features": value})
    with pytest.raises(DataError, match="features"):
        read_columns(tmp_path / "f.mat", "features")


@pytest.mark.parametrize("hdf5", [False, True])
def test_a_sparse_matrix_is_named(tmp_path, hdf5):
    path = tmp_path / "f.mat"
    if hdf5:
        with h5py.File(path, "w") as file:
            group = file.create_group("att")
            group.attrs["MATLAB_sparse"] = np.uint64(3)
            group["jc"] = np.array([0, 1, 2], dtype=np.uint64)
    else:
        scipy.io.savemat(path, {"att": scipy.sparse.csc_matrix(np.eye(3, 2))})
    assert field_shapes(path) == {"att": (3, 2)}
    with pytest.raises(DataError, match=r"att: expected a full matrix.*full\(x\).*toarray"):
        read_columns(path, "att")


def test_hdf5_cannot_reach_outside_the_file(tmp_path):
    secret = tmp_path / "secret.mat"
    with h5py.File(secret, "w") as file:
        file["features"] = np.ones((3, 2))
    (tmp_path / "raw.bin").write_bytes(bytes(48))
    path = tmp_path / "f.mat"
    with h5py.File(path, "w") as file:
        file["link"] = h5py.ExternalLink("secret.mat", "features")
        file["soft"] = h5py.SoftLink("/link")
        layout = h5py.VirtualLayout(shape=(3, 2), dtype="f8")
        layout[:] = h5py.VirtualSource(str(secret), "features", shape=(3, 2))
        file.create_virtual_dataset("virtual", layout)
        raw = [(str(tmp_path / "raw.bin"), 0, 48)]
        file.create_dataset("external", (3, 2), "f8", external=raw)
        file.create_group("group")
    for field, reason in {
        "link": "expected a field",
        "soft": "expected a field",
        "group": "expected a field",
        "virtual": "reference to another file",
        "external": "reference to another file",
    }.items():
        for read in (read_array, read_columns, read_strings):
            with pytest.raises(DataError, match=reason):
                read(path, field)


@pytest.mark.parametrize("hdf5", [False, True], ids=["v5", "v7.3"])
def test_a_header_cannot_claim_more_than_the_file_could_hold(tmp_path, hdf5):
    path = tmp_path / "f.mat"
    if hdf5:
        with h5py.File(path, "w") as file:  # no chunk is stored, whatever the shape
            file.create_dataset("features", (10**6, 10**6), "f8", chunks=(1, 10**4))
    else:
        scipy.io.savemat(path, {"features": np.ones((3, 5))})
        content = path.read_bytes()
        shape = np.array([3, 5], "<i4").tobytes()
        path.write_bytes(content.replace(shape, np.array([2**30, 2**30], "<i4").tobytes(), 1))
    for read in (read_array, read_columns):
        with pytest.raises(DataError, match=r"declares (shape \(|8000000000000 bytes)"):
            read(path, "features")


def test_big_endian_files_are_read(tmp_path):
    """A file laid out by hand: MATLAB wrote these on other machines."""
    values = np.arange(6, dtype=">f8").reshape(3, 2)
    body = b"".join(
        [
            struct.pack(">IIII", 6, 8, 6, 0),  # flags: double
            struct.pack(">IIii", 5, 8, 3, 2),  # dimensions
            struct.pack(">HH4s", 1, 1, b"x"),  # name, in a small element
            struct.pack(">II", 9, 48) + values.tobytes("F"),
        ]
    )
    content = b"MATLAB 5.0".ljust(124) + b"\x01\x00MI" + struct.pack(">II", 14, len(body)) + body
    (tmp_path / "f.mat").write_bytes(content)
    np.testing.assert_array_equal(read_array(tmp_path / "f.mat", "x"), values)
    np.testing.assert_array_equal(read_columns(tmp_path / "f.mat", "x"), values.T)


@pytest.mark.parametrize("kind", [17, 2, 16, 5])
def test_what_cannot_be_read_is_no_hindrance_beside_what_can(tmp_path, kind):
    """MATLAB's objects (17), structs, functions and sparse matrices are listed and passed over."""
    scipy.io.savemat(tmp_path / "f.mat", {"features": np.ones((3, 5))})
    body = struct.pack("<IIII", 6, 8, kind, 0)
    body += b"" if kind == 17 else struct.pack("<IIii", 5, 8, 1, 1)
    body += struct.pack("<HH4s", 1, 1, b"t") + struct.pack("<HH4s", 1, 4, b"MCOS")
    with (tmp_path / "f.mat").open("ab") as handle:
        handle.write(struct.pack("<II", 14, len(body)) + body)
    assert set(field_shapes(tmp_path / "f.mat")) == {"features", "t"}
    assert read_columns(tmp_path / "f.mat", "features").shape == (5, 3)
    with pytest.raises(DataError, match=r"f\.mat"):
        read_columns(tmp_path / "f.mat", "t")
