from dataclasses import replace

import pytest
from recorder import Recorder

from topwork.core.callbacks import SILENT
from topwork.core.errors import DatasetError
from topwork.models.model_facts import Provenance
from topwork.recipes.open_data import open_data, open_model_data


@pytest.fixture
def table(tmp_path):
    for n in range(4):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        (tmp_path / "pictures" / f"{n}.png").write_bytes(b"x")
    path = tmp_path / "labels.csv"
    rows = "".join(f"{n},{['red', 'grün'][n % 2]}\n" for n in range(4))
    path.write_bytes(f"id,label\n{rows}".encode("mac-roman"))
    return path


def test_what_was_guessed_is_heard(table, tmp_path):
    told = Recorder()
    columns = {"image_folder": str(table.parent / "pictures")}
    dataset = open_data(str(table), columns, tmp_path / "s", told, strict=True)
    ((notes,),) = told.told["on_notes"]
    assert notes == dataset.notes
    assert "--encoding" in " ".join(note.text for note in notes)


def test_what_is_true_of_one_place_is_not_asked_of_another(trained, table, tmp_path):
    said = {
        "image_folder": str(table.parent / "pictures"), "encoding": "mac-roman",
        "label_column": "label",
    }  # fmt: skip
    model = replace(
        trained.model,
        data=trained.model.data.model_copy(update={"columns": said}),
        provenance=Provenance(command="topwork train", data=str(table)),
    )
    again = open_model_data(model, str(table), {}, tmp_path, SILENT, strict=True)
    assert again.classes == ("grün", "red")
    other = table.rename(table.with_name("other.csv"))
    with pytest.raises(DatasetError, match="say with --images where else"):
        open_model_data(model, str(other), {}, tmp_path, SILENT, strict=False)
    columns = {"image_folder": said["image_folder"], "encoding": "mac-roman"}
    found = open_model_data(model, str(other), columns, tmp_path, SILENT, strict=True)
    assert found.classes == ("grün", "red")
