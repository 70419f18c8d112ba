"""Settings of the model card: what nobody but its author can know."""

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from distilcli.config.data import as_list
from distilcli.config.fields import Section


def _language(text: str) -> str:
    if not re.fullmatch(r"[a-z]{2,3}|code|multilingual", text):
        raise ValueError("must be a code of ISO 639, such as en or deu, or code or multilingual")
    return text


def _license(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", text):
        raise ValueError(
            "must be what the hub calls a licence, such as apache-2.0, mit, cc-by-sa-4.0 or other"
        )
    return text


def _data_set(text: str) -> str:
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", text, flags=re.ASCII):
        raise ValueError("must be the name of a data set on the hub, such as wikimedia/wikipedia")
    return text


_Language = Annotated[str, AfterValidator(_language)]
_DataSet = Annotated[str, AfterValidator(_data_set)]


class CardConfig(Section):
    """What README.md of the student says that cannot be read off the run."""

    language: Annotated[
        list[_Language],
        BeforeValidator(as_list, json_schema_input_type=str | list[str]),
    ] = Field(
        [],
        description="Languages of the text, by their codes, such as en; []: those that the "
        "teacher's card says.",
    )
    license: Annotated[str, AfterValidator(_license)] | None = Field(
        None,
        description="The licence of the student, as the hub calls it, such as apache-2.0; null: "
        "what the teacher's card says, else none.",
    )
    datasets: Annotated[
        list[_DataSet],
        BeforeValidator(as_list, json_schema_input_type=str | list[str]),
    ] = Field(
        [],
        description="Data sets on the hub that the files of the experiment come from; those that "
        "it reads by their names are known.",
    )
