"""Drawing: a prompt of each row becomes an image."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator

from distilnb.errors import ParseError, StepRowError
from distilnb.home import private_folder
from distilnb.llms.base import LLM
from distilnb.llms.catalog import as_image_model
from distilnb.llms.images import Image, image_of
from distilnb.llms.request import Message
from distilnb.rows import Row, write_bytes
from distilnb.spec.step import ColumnNames
from distilnb.tasks.base import Task

ImageModelField = Annotated[LLM, BeforeValidator(as_image_model)]


class ImageGeneration(Task):
    """Ask a model to draw what a prompt says.

    `image_generation_model` is another name of `llm`. With `save_artifacts` each image is also written as a file of
    its content's name into the folder `images` below DISTILNB_HOME. An image is kept like any reply: a run that goes
    on, or a later one, pays for none twice.

    Inputs:  prompt (str, not empty).
    Outputs: image (str; the file's content in base64); image_path (str; with `save_artifacts`); model_name (str).
    Errors:  MissingValueError when the prompt is None; StepRowError when it is empty or no text; ParseError when the
             reply is no image.
    Source:  the task of that name of distilabel.

    >>> draw = ImageGeneration(image_generation_model="rehearsal")
    >>> draw.ask({"prompt": "A kite."})["image"][:8]
    'iVBORw0K'
    """

    asks_for: ClassVar[Literal["text", "vector", "image"]] = "image"

    llm: ImageModelField | None = None
    save_artifacts: bool = False

    def __init__(self, **values: Any) -> None:
        if "image_generation_model" in values:
            values.setdefault("llm", values.pop("image_generation_model"))
        super().__init__(**values)

    @property
    def image_generation_model(self) -> LLM | None:
        """The model."""
        return self.llm

    @property
    def inputs(self) -> ColumnNames:
        return ["prompt"]

    @property
    def outputs(self) -> ColumnNames:
        return ["image", *(["image_path"] if self.save_artifacts else []), "model_name"]

    def format_input(self, input: Row) -> list[Message]:
        prompt = input["prompt"]
        if not isinstance(prompt, str) or not prompt.strip():
            what = "is empty" if isinstance(prompt, str) else f"holds a {type(prompt).__name__}, and no text"
            column = self.input_mappings.get("prompt", "prompt")
            raise StepRowError(f"Column {column!r} {what}: it cannot be drawn.", "Filter such rows out.")
        return [{"role": "user", "content": prompt}]

    def format_output(self, output: str | None, input: Row) -> dict[str, Any]:
        try:
            image = image_of(output or "", "image", kind="base64")
        except StepRowError as error:
            raise ParseError(f"The reply is no image: {error.what}", "See the server's log.") from error
        saved = {"image_path": _save(image)} if self.save_artifacts else {}
        return {"image": output, **saved}


def _save(image: Image) -> str:
    """Write an image into the folder of images, where the same content has the same name."""
    suffix = image.media_type.partition("/")[2].replace("jpeg", "jpg")
    path = private_folder("images") / f"{image.digest}.{suffix}"
    if not path.exists():
        write_bytes(path, image.content())
    return str(path)
