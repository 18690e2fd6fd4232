from dataclasses import replace

import numpy as np
import pytest

from topwork.core.errors import DatasetError
from topwork.core.task import Task
from topwork.data.dataset import Dataset
from topwork.models.match_data import match_classes


def test_labels_are_found_by_name_and_those_that_the_data_lacks_are_absent(trained, photos):
    model = replace(trained.model, task=Task.LABELS)
    photographs = Dataset.from_folder(photos)
    photographs = photographs.select(photographs.splits == "test")
    labels = np.array([[True, False]] * 6 + [[False, True]] * 6)
    dataset = replace(photographs, task=Task.LABELS, labels=labels, classes=("red", "blue"))
    found = match_classes(model, dataset)
    assert found.classes == ("blue", "green", "red")
    assert found.labels.tolist() == [[False, False, True]] * 6 + [[True, False, False]] * 6
    with pytest.raises(DatasetError, match="the data also has pink"):
        match_classes(model, replace(dataset, classes=("pink", "red")))


@pytest.mark.parametrize("name", ["Red", "red\u200b", "r ed"])
def test_a_class_that_is_written_otherwise_is_pointed_out(trained, photos, name):
    dataset = Dataset.from_folder(photos)
    dataset = replace(dataset, classes=("blue", "green", name))
    with pytest.raises(DatasetError, match="may be meant as 'red'"):
        match_classes(trained.model, dataset)
