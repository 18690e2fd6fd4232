from topwork.reports.pages.balance import count_classes


def test_classes_are_counted_by_split_the_largest_first():
    found = count_classes({"train": {"hat": 3, "shoe": 10}, "test": {"shoe": 10, "cap": 5}})
    assert found.splits == ["train", "test"]
    assert found.totals == [13, 15]
    assert [(row.name, row.counts, row.total) for row in found.rows] == [
        ("shoe", [10, 10], 20), ("cap", [0, 5], 5), ("hat", [3, 0], 3),
    ]  # fmt: skip
    assert found.rows[0].widths == [50, 50]
    assert found.rows[1].widths == [0, 25]


def test_nothing_and_empty_splits_have_no_bars():
    assert count_classes({}).rows == []
    assert count_classes({"train": {"hat": 0}}).rows[0].widths == [0]
