"""Settings of the data: how a table of images is read, and what its labels mean."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from topwork.core.task import Task
from topwork.core.validated import create_validated

# Those that are true of one folder or table, and not of others with such labels.
OF_ONE_PLACE = ("image_folder", "encoding", "folders")


class FolderMeaning(StrEnum):
    """What the folders of a data set are: classes, or parts such as train and test."""

    CLASSES = "classes"
    PARTS = "parts"


class DataSettings(BaseModel):
    """How a table of images is read, and what its labels mean.

    Raises:
        SettingsError: through `DataSettings.create`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: Task | None = Field(
        None,
        description="What a label is: one of many classes, one of two (binary), any of many labels "
        "at once, or a number [classes; binary where there are two; labels where there are "
        "several columns or a separator].",
    )
    image_column: str | None = Field(
        None, description="Column of a table with the images' paths or URLs [guessed]."
    )
    label_column: str | None = Field(
        None, description="Column with the labels, or several, separated by commas [guessed]."
    )
    label_separator: str | None = Field(
        None, min_length=1, description="Text between the labels of one image, such as `|`."
    )
    split_column: str | None = Field(
        None, description="Column that says train, validation or test [split, if there is one]."
    )
    group_column: str | None = Field(
        None,
        description="Column of what must not be divided between splits, such as a product or a "
        "patient [group, if there is one].",
    )
    weight_column: str | None = Field(
        None,
        description="Column of how much an image counts in training [weight, if there is one].",
    )

    image_folder: str | None = Field(
        None,
        description="Folder, or start of a URL, that a table's paths are relative to; it is "
        "searched for names without a folder or suffix [the table's own folder].",
    )
    encoding: str | None = Field(
        None, description="Encoding of a text table, such as cp1252 [UTF-8, or recognised]."
    )
    folders: FolderMeaning | None = Field(
        None,
        description="What the folders of DATA are: classes, or parts such as train and test with "
        "a folder for each class in them [told by their names].",
    )

    @field_validator("encoding")
    @classmethod
    def _check_encoding(cls, name: str | None) -> str | None:
        try:
            if name is not None:
                "".encode(name)
        except (LookupError, ValueError):
            raise PydanticCustomError(
                "encoding", f"there is no text encoding called {name!r}; such are utf-8 and cp1252"
            ) from None
        return name

    @classmethod
    def create(cls, **values: Any) -> DataSettings:
        """Validates `values` and returns the settings.

        Raises:
            SettingsError: a value is unknown, of the wrong type or out of range.
        """
        return create_validated(cls, values)

    def to_remember(self) -> dict[str, str]:
        """Returns what was said, as text, for a model; a folder from wherever it is looked for."""
        said: dict[str, str] = self.model_dump(mode="json", exclude_none=True)
        folder = self.image_folder
        if folder is not None and "://" not in folder:
            said["image_folder"] = str(Path(folder).absolute())
        return said

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The names of the label columns, empty if they are to be guessed."""
        names = (name.strip() for name in (self.label_column or "").split(","))
        return tuple(name for name in names if name)
