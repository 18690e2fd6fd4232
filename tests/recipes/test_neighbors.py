from dataclasses import replace

import numpy as np
import pytest
from pictures import COLOURS, encode, picture

from topwork.core.errors import DatasetError, SettingsError
from topwork.data.dataset import Dataset
from topwork.recipes.embed import embed
from topwork.recipes.neighbors import open_index, open_model_index
from topwork.vectors import embed_job


def load_model(path):
    from topwork.models.folder import load_model

    return load_model(path)


@pytest.fixture(scope="module")
def dataset(photos):
    return Dataset.from_folder(photos)


@pytest.fixture(scope="module")
def known(dataset, small, store):
    return open_index(dataset, small, store)


@pytest.fixture(scope="module")
def strangers():
    return [encode(picture(colour, seed=500)) for colour in COLOURS.values()]


def names_of(found):
    return [one.name for one in found]


class TestFind:
    def test_it_is_brute_force_on_the_same_vectors(self, known, strangers, small, store):
        vectors = embed(Dataset.from_sources(strangers), small, store).vectors.values

        def cosine(left, right):
            return float(left @ right / (np.linalg.norm(left) * np.linalg.norm(right)))

        answers = dict(known.find(strangers, 5))
        assert list(answers) == [0, 1, 2]
        for index, found in answers.items():
            cosines = [cosine(vectors[index], vector) for vector in known.vectors]
            best = np.argsort(cosines)[::-1][:5]
            assert names_of(found) == [known.names[n] for n in best]
            assert [one.similarity for one in found] == pytest.approx(
                [cosines[n] for n in best], abs=1e-5
            )
            assert [(one.label, one.split) for one in found] == [
                (known.labels[n], known.splits[n]) for n in best
            ]
            assert found[0].label == list(COLOURS)[index]

    def test_an_image_is_not_its_own_neighbour(self, known, photos, dataset):
        path = photos / "train" / "red" / "016.png"
        ((_, found),) = known.find([path], len(dataset))
        assert len(found) == len(dataset) - 1
        assert "train/red/016.png" not in names_of(found)

    def test_equal_images_are_all_left_out_and_the_count_is_kept(self, dataset, small, store):
        first = dataset.sources[0]
        more = replace(
            dataset,
            sources=(*dataset.sources, first, first),
            names=(*dataset.names, "again", "once more"),
            labels=np.append(dataset.labels, [0, 0]).astype(np.int32),
            splits=np.append(dataset.splits, ["train", "train"]),
        )
        answers = dict(open_index(more, small, store).find([first, dataset.sources[1]], 4))
        assert [len(found) for found in answers.values()] == [4, 4]
        assert not {dataset.names[0], "again", "once more"} & {*names_of(answers[0])}

    def test_images_that_cannot_be_read_have_their_reason_in_their_place(
        self, known, strangers, tmp_path
    ):
        asked = [tmp_path / "none.png", strangers[0], b"no image", strangers[2]]
        answers = dict(known.find(asked, 2))
        assert list(answers) == [0, 1, 2, 3]
        assert answers[0] == "there is no such file"
        assert "not an image" in answers[2]
        assert answers[1][0].label == "blue"
        assert answers[3][0].label == "red"

    def test_where_none_can_be_read_each_has_its_reason(self, known, tmp_path):
        assert dict(known.find([tmp_path / "none.png", b"", b"no image"], 2)) == {
            0: "there is no such file",
            1: "the file is empty (0 bytes)",
            2: "not an image, or of a format that is not supported",
        }

    def test_the_same_image_twice(self, known, strangers):
        first, second = known.find([strangers[0], strangers[0]], 3)
        assert first[1] == second[1]

    def test_a_count_below_one_is_refused(self, known, strangers):
        with pytest.raises(SettingsError, match="count"):
            list(known.find(strangers, 0))

    def test_no_images_are_refused(self, known):
        with pytest.raises(DatasetError, match="at least one image"):
            list(known.find([], 3))


class TestNeighborIndex:
    def test_images_without_labels(self, strangers, small, store):
        known = open_index(Dataset.from_sources(strangers), small, store)
        assert known.labels == ("", "", "")
        ((_, found),) = known.find([encode(picture(COLOURS["red"], seed=501))], 1)
        assert (found[0].name, found[0].label) == ("image 2", "")

    def test_an_image_that_cannot_be_used_is_not_in_it(self, strangers, small, store):
        known = open_index(Dataset.from_sources([*strangers, b"no image"]), small, store)
        assert known.names == ("image 0", "image 1", "image 2")


class TestModelIndex:
    def test_it_holds_the_training_images(self, saved, store, known, strangers):
        found = open_model_index(load_model(saved), store)
        assert {*found.splits} == {"train"}
        assert len(found.names) == 24
        wanted = dict(zip(known.names, known.vectors, strict=True))
        for name, row in zip(found.names, found.vectors, strict=True):
            np.testing.assert_array_equal(row, wanted[name])
        answers = dict(found.find(strangers, 3))
        assert [one[0].label for one in answers.values()] == list(COLOURS)

    def test_a_stack_of_networks(self, stacked_saved, store, strangers):
        found = open_model_index(load_model(stacked_saved), store)
        assert found.vectors.shape == (24, 2560)
        ((_, near),) = found.find(strangers[:1], 2)
        assert near[0].label == "blue"

    def test_images_whose_vectors_are_gone_are_not_in_it(self, trained, saved, tmp_path, store):
        model = load_model(saved)
        (extractor,) = model.extractors(tmp_path)
        (there,) = model.extractors(store)
        there.store.refresh()
        training = [
            image
            for image, split in zip(model.images.hashes, model.images.splits, strict=True)
            if split == "train"
        ]
        extractor.store.write(training[:5], there.store.read(training[:5]))
        assert {*open_model_index(model, tmp_path).hashes} == {*training[:5]}

    def test_without_vectors_it_says_what_to_do(self, saved, tmp_path):
        with pytest.raises(DatasetError, match="name their folder instead of the model, or"):
            open_model_index(load_model(saved), tmp_path / "other")

    def test_nothing_is_made_that_is_there(self, saved, store, photos, monkeypatch):
        known = open_model_index(load_model(saved), store)

        def refuse(*_):
            raise AssertionError

        monkeypatch.setattr(embed_job.Job, "_run", refuse)
        path = photos / "train" / "red" / "016.png"
        ((_, found),) = known.find([path], 3)
        assert "train/red/016.png" not in names_of(found)
