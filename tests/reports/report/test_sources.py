import shutil
from dataclasses import replace

from topwork.core.task import Task
from topwork.data.dataset import Dataset
from topwork.models.predictions import load_predictions
from topwork.reports.report import find_sources


def test_kept_answers_find_their_images_again(saved, photos):
    kept = load_predictions(saved, Task.CLASSES)
    assert set(kept.sources) == {None}
    found = find_sources(kept, Dataset.from_folder(photos))
    assert [source.relative_to(photos).as_posix() for source in found.sources] == list(found.names)
    assert (found.logits == kept.logits).all()


def test_images_that_changed_or_are_gone_are_not_taken(saved, photos, tmp_path):
    root = tmp_path / "photos"
    shutil.copytree(photos, root)
    kept = load_predictions(saved, Task.CLASSES)
    dataset = Dataset.from_folder(root)
    (root / kept.names[0]).write_bytes((root / kept.names[1]).read_bytes())
    (root / kept.names[2]).unlink()
    found = find_sources(kept, dataset)
    assert found.sources[0] is None
    assert found.sources[2] is None
    assert None not in (found.sources[1], *found.sources[3:])


def test_names_that_are_not_unicode_are_found_as_they_were_kept(saved, photos):
    kept = load_predictions(saved, Task.CLASSES)
    dataset = Dataset.from_folder(photos)
    place = dataset.names.index(kept.names[0])
    names = list(dataset.names)
    names[place] = "odd\udcff.png"
    kept = replace(kept, names=("odd\\udcff.png", *kept.names[1:]))
    assert find_sources(kept, replace(dataset, names=tuple(names))).sources[0] is not None
