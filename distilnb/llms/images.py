"""Images in messages: where one is, what it is, and how it is named in keys, prompts and requests.

A message with images has a list of parts as its content: {"type": "text", "text": ...} and {"type": "image", "image":
Image}. Parts of OpenAI's protocol (`image_url`) are understood too. Each provider's client makes its own form of them.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from distilnb.errors import RefusedRequestError, StepRowError
from distilnb.llms.request import Message
from distilnb.llms.tokens import Size, size_of

MAX_IMAGE_BYTES = 20 << 20
# What an image is counted as where its size, or the model's rule, is not known: about what most providers count for a
# picture of a thousand pixels each way.
IMAGE_TOKENS = 1500
# What an image may be given as; None finds it out.
ImageType = Literal["url", "base64", "path", "bytes", "PIL"]

# How files begin, and what the providers call them.
_SIGNS: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)
_DATA_URI = re.compile(r"data:[\w/+.-]*(?:;[\w=.-]+)*;base64,(.*)", re.IGNORECASE | re.DOTALL)
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]{40,}={0,2}\s*")
_BEGIN = (
    4096  # characters in which base64 text must have some letters: it may be broken into lines, or set far in
)
NO_IMAGES_FIX = "Leave the images out, or ask a model of a provider that sees them."
_KINDS = "PNG, JPEG, GIF and WebP"


@dataclass(frozen=True)
class Image:
    """An image: an address, or a file or bytes of which `digest` names the content.

    As text, in the keys of the reply cache and in what is shown, it is its address or its digest: the same content is
    the same image, wherever it was.
    """

    url: str = ""
    media_type: str = ""  # "" for an address
    digest: str = ""
    n_bytes: int = 0
    size: Size | None = field(default=None, compare=False, repr=False)  # where it is known
    path: str = field(default="", compare=False)
    data: bytes = field(default=b"", compare=False, repr=False)

    def __str__(self) -> str:
        return self.url or f"{self.media_type} {self.digest}"

    @property
    def words(self) -> str:
        """What stands for it where a prompt is shown."""
        return f"[image {self.url}]" if self.url else f"[{self.media_type}, {self.n_bytes:,} bytes]"

    def content(self) -> bytes:
        """Return its bytes; raises RefusedRequestError where the file is another one, or gone, by now."""
        if self.data or not self.path:
            return self.data
        try:
            data = Path(self.path).read_bytes()
        except OSError as error:
            raise RefusedRequestError(
                f"The image {self.path!r} cannot be read any more: {error.strerror}.",
                "Put it back, and retry.",
            ) from error
        if _digest(data) != self.digest:
            raise RefusedRequestError(
                f"The image {self.path!r} was changed while it waited to be sent.", "Retry the row."
            )
        return data

    def in_base64(self) -> str:
        """Return its bytes as text."""
        return base64.b64encode(self.content()).decode("ascii")

    def address(self) -> str:
        """Return its address, or a data URI with its bytes."""
        return self.url or f"data:{self.media_type};base64,{self.in_base64()}"


# --- from a column ------------------------------------------------------------


def image_of(value: object, column: str, *, kind: ImageType | None = None, folder: str = ".") -> Image:
    """Return the image that a row holds: an address, a data URI or base64 text, a path, bytes, or PIL's.

    Paths lead into `folder`, and nowhere else. `datasets`' form ({"bytes": ..., "path": ...}) is understood. Raises
    StepRowError for what is no image, one of another type than the providers read, or one that is too large.
    """
    if isinstance(value, Mapping) and value.keys() <= {"bytes", "path"}:
        value = value.get("bytes") or value.get("path")
    if isinstance(value, (bytes, bytearray)) and kind in (None, "bytes"):
        return _of_bytes(bytes(value), column)
    if callable(getattr(value, "save", None)) and kind in (None, "PIL"):
        return _of_bytes(_png_of(value), column)
    if not isinstance(value, str):
        wanted = f"the type {kind!r}" if kind else "an address, a path, base64 text, bytes or PIL's image"
        raise StepRowError(
            f"Column {column!r} holds a {type(value).__name__}, and no image: {wanted} is expected.",
            "Give the image in one of these forms.",
        )
    return _of_text(value.strip(), column, kind, folder)


def _of_text(text: str, column: str, kind: ImageType | None, folder: str) -> Image:
    if kind in (None, "base64") and (found := _DATA_URI.fullmatch(text)):
        return _of_bytes(_decoded(found[1], column), column)
    if kind in (None, "url") and text.lower().startswith(("http://", "https://")):
        return _of_address(text, column)
    if kind == "base64" or (kind is None and _looks_like_base64(text)):
        return _of_bytes(_decoded(text, column), column)
    if kind in (None, "path"):
        return _of_path(text, column, folder)
    raise StepRowError(
        f"Column {column!r} holds {text!r:.60}, which is no image of the type {kind!r}.",
        "Leave image_type out: then the form is found out.",
    )


def _of_address(text: str, column: str) -> Image:
    parts = urlsplit(text)
    if not parts.hostname or parts.username or parts.password:
        raise StepRowError(
            f"Column {column!r} holds an address without a host, or with a password in it.",
            "Write it as https://host/path.",
        )
    return Image(url=text)


def _of_path(text: str, column: str, folder: str) -> Image:
    root = Path(folder).expanduser().resolve()
    try:
        path = (root / Path(text).expanduser()).resolve()
        if not path.is_relative_to(root):
            raise StepRowError(
                f"Column {column!r} names the file {text!r}, which is outside of the folder {str(root)!r}.",
                "Say where the images are: image_folder='/data/photos'.",
            )
        size = path.stat().st_size
        if not path.is_file():
            raise IsADirectoryError(21, "it is no file")
        _check_size(size, column)
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StepRowError(
            f"Column {column!r} holds {text!r:.80}, which is no address and no base64 text of an image; as a file of "
            f"{str(root)!r} it cannot be read: {reason}.",
            "Correct the path, or say where the images are: image_folder=.",
        ) from error
    return Image("", _media_type(data, column), _digest(data), len(data), size_of(data), path=str(path))


def _of_bytes(data: bytes, column: str) -> Image:
    _check_size(len(data), column)
    return Image("", _media_type(data, column), _digest(data), len(data), size_of(data), data=data)


def _check_size(n_bytes: int, column: str) -> None:
    if n_bytes > MAX_IMAGE_BYTES:
        raise StepRowError(
            f"Column {column!r} holds an image of {n_bytes:,} bytes; at most {MAX_IMAGE_BYTES:,} are sent.",
            "Make it smaller: models look at about a thousand pixels each way.",
        )


def _media_type(data: bytes, column: str) -> str:
    for sign, name in _SIGNS:
        if data.startswith(sign):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    raise StepRowError(
        f"Column {column!r} holds {len(data):,} bytes that are no image of a kind that models read: {_KINDS}.",
        "Convert it, for instance with PIL: image.convert('RGB').save('photo.png').",
    )


def _decoded(text: str, column: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise StepRowError(
            f"Column {column!r} holds text that is no base64: {error}.", "Encode the bytes of the image anew."
        ) from error


def _looks_like_base64(text: str) -> bool:
    if not _BASE64.fullmatch(text):
        return False
    letters = "".join(text[:_BEGIN].split())[:32]
    begin = base64.b64decode(letters[: len(letters) // 4 * 4])
    return begin.startswith(b"RIFF") or any(begin.startswith(sign) for sign, _ in _SIGNS)


def _png_of(picture: Any) -> bytes:
    file = BytesIO()
    picture.save(file, format="PNG")
    return file.getvalue()


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=16).hexdigest()


# --- in messages --------------------------------------------------------------


def with_images(messages: Sequence[Message], images: Sequence[Image]) -> list[Message]:
    """Return messages with images behind the text of the last one of the user's."""
    last = max(place for place, message in enumerate(messages) if message["role"] == "user")
    content = messages[last]["content"]
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    parts = [*parts, *({"type": "image", "image": image} for image in images)]
    return [*messages[:last], {**messages[last], "content": parts}, *messages[last + 1 :]]


def parts_of(message: Message) -> Iterator[str | Image]:
    """Yield the texts and images of a message; raises RefusedRequestError for a part that is neither."""
    content = message.get("content")
    if not isinstance(content, list):
        yield str(content or "")
        return
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        if kind == "text":
            yield str(part.get("text", ""))
        elif kind == "image" and isinstance(part.get("image"), Image):
            yield part["image"]
        elif kind == "image_url":
            yield _of_openais(part.get("image_url"))
        else:
            raise RefusedRequestError(
                f"A message holds a part of type {kind!r}; text and images are known.", "Leave it out."
            )


def _of_openais(value: object) -> Image:
    address = value.get("url") if isinstance(value, Mapping) else value
    if not isinstance(address, str) or not address.lower().startswith(("http://", "https://", "data:")):
        raise RefusedRequestError("A part of type 'image_url' holds no address.", "{'url': 'https://…'}")
    try:
        return _of_text(address, "image_url", None, ".")
    except StepRowError as error:
        raise RefusedRequestError(error.what, error.fix) from error


def shown(content: object) -> str:
    """Return what a message says as one text, in which images are told of and not written out."""
    if not isinstance(content, list):
        return str(content if content is not None else "")
    texts = []
    for part in content:
        if isinstance(part, Mapping) and isinstance(part.get("image"), Image):
            texts.append(part["image"].words)
        elif isinstance(part, Mapping) and part.get("type") == "text":
            texts.append(str(part.get("text", "")))
        else:
            texts.append(f"[{part.get('type') if isinstance(part, Mapping) else type(part).__name__}]")
    return "\n".join(texts)


def images_in(messages: Sequence[Message]) -> Iterator[Image]:
    """Yield the images that messages hold; one in OpenAI's own words as an address, of which nothing is known."""
    for part in (part for message in messages if has_parts((message,)) for part in message["content"]):
        kind = part.get("type") if isinstance(part, Mapping) else ""
        if kind == "image_url" or (kind == "image" and not isinstance(part.get("image"), Image)):
            yield Image(url="image_url")
        elif kind == "image":
            yield part["image"]


def has_parts(messages: Sequence[Message]) -> bool:
    """Whether some message is more than text."""
    return any(type(message.get("content")) is list for message in messages)


def for_openai(messages: Sequence[Message]) -> list[Message]:
    """Return messages as OpenAI's protocol writes images; parts of its own are left as they are."""
    return [
        {**message, "content": [_for_openai(part) for part in message["content"]]}
        if isinstance(message.get("content"), list)
        else message
        for message in messages
    ]


def _for_openai(part: Any) -> Any:
    image = part.get("image") if isinstance(part, Mapping) else None
    if not isinstance(image, Image):
        return part
    return {"type": "image_url", "image_url": {"url": image.address()}}


def in_parts(message: Message, text: Callable[[str], Any], image: Callable[[Image], Any]) -> list[Any]:
    """Return the parts of a message in the words of a provider."""
    return [text(part) if isinstance(part, str) else image(part) for part in parts_of(message)]


def check_sees(title: str, ways: Collection[str], messages: Sequence[Message]) -> None:
    """Raise RefusedRequestError for images that a provider does not take in any of its `ways` ("url", "file")."""
    for message in messages:
        for part in parts_of(message) if isinstance(message.get("content"), list) else ():
            if isinstance(part, str) or ("url" if part.url else "file") in ways:
                continue
            if not ways:
                raise RefusedRequestError(
                    f"{title} is sent no images, and a message holds one: {part.words}.", NO_IMAGES_FIX
                )
            raise RefusedRequestError(
                f"{title} takes the bytes of images and no addresses: {part.words}.",
                "Give files of this machine (image_folder=), base64 text or bytes.",
            )
