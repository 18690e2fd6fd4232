"""Settings of the data: how a table of images is read, and what its labels mean."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from topwork.core.task import Task
from topwork.core.validated import create_validated


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

    @classmethod
    def create(cls, **values: Any) -> DataSettings:
        """Validates `values` and returns the settings.

        Raises:
            SettingsError: a value is unknown, of the wrong type or out of range.
        """
        return create_validated(cls, values)

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The names of the label columns, empty if they are to be guessed."""
        names = (name.strip() for name in (self.label_column or "").split(","))
        return tuple(name for name in names if name)
