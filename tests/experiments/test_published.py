"""Published figures: every row is read and checked, and the odd ones are known by name."""

import re
from collections import Counter

import pytest

from mlis.errors import DataError
from mlis.experiments.published import (
    NAMES,
    Published,
    parse,
    published,
)
from mlis.experiments.tables import published_lines

HEADER = "method,venue,year,dataset,U,S,H,protocol,features,setting,selection,source,note"
GOOD = "some,CVPR,2020,CUB,50.0,60.0,54.5,as published,CLIP,inductive,test rows,a paper,"


def rows(text: str) -> tuple[Published, ...]:
    return parse(f"{HEADER}\n{text}\n", "some.csv")


def test_sizes_of_the_tables():
    assert {name: len(published(name)) for name in NAMES} == {
        "table2": 55,
        "table3": 15,
        "table4": 12,
        "others": 45,
    }
    table2 = published("table2")
    assert len({row.method for row in table2}) == 16
    assert Counter(row.dataset for row in table2) == {
        "CUB": 16,
        "AWA2": 16,
        "SUN": 12,
        "FLO": 6,
        "aPY": 5,
    }


def test_some_figures_by_hand():
    """Typed from the paper's text, not from its tables in another file."""
    found = {(row.method, row.dataset): (row.U, row.S, row.H) for row in published("table2")}
    assert found["FREE", "FLO"] == (67.4, 84.5, 75.0)
    assert found["MLIS-GZSL", "aPY"] == (34.6, 66.1, 45.4)
    found = {(row.method, row.dataset): (row.U, row.S, row.H) for row in published("table3")}
    assert found["ML", "CUB"] == (54.7, 45.0, 49.3)
    assert found["ML+IS+SFR", "FLO"] == (62.1, 85.6, 72.0)
    found = {(row.method, row.dataset): (row.U, row.S, row.H) for row in published("table4")}
    assert found["multi-similarity", "CUB"] == (51.3, 25.2, 33.8)
    assert found["multi-similarity+IS", "AWA2"] == (56.5, 80.4, 66.4)


def test_the_records_say_how_they_were_made():
    """The highest H of each dataset and kind of features, and what stands beside it."""
    rows = published("others")
    best = {
        (dataset, features): max(
            (one for one in rows if (one.dataset, one.features) == (dataset, features)),
            key=lambda one: one.H,
        )
        for dataset, features in {(one.dataset, one.features) for one in rows}
    }
    found = {key: (one.method, one.H) for key, one in best.items()}
    frozen, tuned = "ResNet-101, frozen", "ResNet-101, fine-tuned"
    assert found == {
        ("CUB", frozen): ("DPCN", 69.0),
        ("AWA2", frozen): ("SCFA-GZSL", 73.9),
        ("SUN", frozen): ("DSP", 45.5),
        ("FLO", frozen): ("CE-GZSL", 73.5),  # FREE, 75.0, is in the paper's table 2
        ("aPY", frozen): ("ZLAP on CE-GZSL", 47.0),
        ("CUB", tuned): ("ZeroDiff", 81.6),
        ("AWA2", tuned): ("ZeroDiff", 81.4),
        ("FLO", tuned): ("SDGZSL (fine-tuned)", 80.2),
        ("CUB", "CLIP"): ("GenZSL", 57.4),
        ("AWA2", "CLIP"): ("GenZSL", 87.4),
        ("FLO", "CLIP"): ("TPR", 70.5),
    }
    bare = [one for one in rows if one.U is None]
    assert len(bare) == 11
    assert all(one.S is None and "only H is recorded" in one.note for one in bare)
    by_method = {one.method: one.selection for one in (*rows, *published("table2"))}
    assert by_method["FREE"] == by_method["TCN"] == "test rows"
    assert by_method["CN-GZSL"] == "last step"
    assert {one.setting for one in rows} == {"inductive"}


def test_lines_say_features_setting_and_selection():
    lines = {line.method: line for line in published_lines("table2", "AWA2")}
    assert lines["ZeroDiff"].features == "ResNet-101, fine-tuned"
    assert "inductive; selection: not known; only H" in lines["ZeroDiff"].note
    assert (lines["ZeroDiff"].cell("U"), lines["ZeroDiff"].cell("H")) == ("–", "81.4")
    assert "selection: test rows" in lines["TCN"].note
    assert "inductive" not in lines["LisGAN"].note


def test_every_h_but_one_follows_from_u_and_s():
    odd = [row for name in NAMES for row in published(name) if not row.consistent]
    assert [(row.method, row.dataset, row.U, row.S, row.H) for row in odd] == [
        ("ZIC-LDM", "SUN", 23.5, 33.9, 27.6)
    ]
    assert "does not follow" in odd[0].note
    computed = 2 * 23.5 * 33.9 / (23.5 + 33.9)
    assert computed == pytest.approx(27.8, abs=0.05)


def test_slips_of_table_2_are_printed_as_they_stand_and_noted():
    found = {(row.method, row.dataset): row for row in published("table2")}
    for row, figures, said in (
        (("LisGAN", "SUN"), (42.6, 36.6, 39.4), "42.9 / 37.8 / 40.2"),
        (("LisGAN", "AWA2"), (52.6, 76.3, 62.3), "AWA1"),
        (("ZIC-LDM", "SUN"), (23.5, 33.9, 27.6), "27.8"),
        (("Li et al.", "SUN"), (36.6, 47.6, 41.4), "swapped"),
    ):
        one = found[row]
        assert figures == (one.U, one.S, one.H)
        assert said in one.note
    clswgan = next(r for r in published("others") if (r.method, r.dataset) == ("f-CLSWGAN", "SUN"))
    slip = found["LisGAN", "SUN"]
    assert (slip.U, slip.S, slip.H) == (clswgan.U, clswgan.S, clswgan.H)
    omitted = {r.method: r for r in published("others") if "left out" in r.note}
    assert {name: (r.dataset, r.H) for name, r in omitted.items()} == {
        "FREE": ("SUN", 41.7),
        "HSVA": ("SUN", 43.3),
    }
    assert not {("FREE", "SUN"), ("HSVA", "SUN")} & found.keys()
    lines = {line.method: line for line in published_lines("table2", "SUN")}
    for name in ("LisGAN", "ZIC-LDM", "Li et al.", "FREE", "HSVA"):
        assert lines[name].note.count(";") >= 2  # the venue, the source, and what is odd


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("CUB", "Cub", "expected a dataset of CUB, AWA2, SUN, FLO, aPY, got 'Cub'"),
        ("50.0", "500", "expected U in per cent, got 500"),
        ("50.0", "nan", "expected U in per cent, got nan"),
        ("60.0", "-", "could not convert string to float: '-'"),
        ("some,", ",", "method is empty"),
        ("a paper", " ", "source is empty"),
        ("as published", "H@val", "expected the protocol 'as published', got 'H@val'"),
        ("2020", "'20", "invalid literal for int"),
        ("50.0", "", "could not convert string to float: ''"),
        ("CLIP", "", "features is empty"),
        ("inductive", "both", "expected the setting 'inductive' or 'transductive' or"),
        ("test rows", "", "expected the selection 'test rows' or 'last step' or"),
        (",a paper,", ",a paper", "expected 13 cells"),
        ("a paper,", "a paper,one,more", "expected 13 cells"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(old, new, said):
    assert rows(GOOD)
    with pytest.raises(DataError, match=re.escape("some.csv, line 3: ") + f".*{re.escape(said)}"):
        rows(f"{GOOD}\n{GOOD.replace(old, new, 1)}")


def test_missing_columns_repeated_rows_unknown_tables():
    with pytest.raises(DataError, match=r"some\.csv, line 2: 'venue'"):
        parse("method,year\na,2020\n", "some.csv")
    with pytest.raises(DataError, match=r"some\.csv, lines 2 and 4: both are some"):
        rows(f"{GOOD}\n{GOOD.replace('CUB', 'FLO')}\n{GOOD}")
    with pytest.raises(DataError, match="expected one of table2, table3, table4, others"):
        published("table9")  # pyright: ignore[reportArgumentType]
