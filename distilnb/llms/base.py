"""The model as a pipeline sees it: frozen data, and what every provider must say of itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, overload

from pydantic import Field, SecretStr, ValidationError

from distilnb.errors import MissingKeyError, SpecError, UnsupportedParameterError
from distilnb.llms.failures import Sign
from distilnb.llms.images import IMAGE_TOKENS, NO_IMAGES_FIX, Image
from distilnb.llms.keys import Found, find_key, forget_keys, how_to_give
from distilnb.llms.parameters import Wire, unify_parameters
from distilnb.llms.parts import Ask, Part
from distilnb.llms.request import Client, Message, Request
from distilnb.llms.shape import ReplyShape, ShapeKind
from distilnb.spec.base import Spec, explain_validation
from distilnb.spec.registry import load_kind

if TYPE_CHECKING:
    from distilnb.llms.calling import Caller
    from distilnb.llms.limits import Gate

# The unified set. A provider maps each, or refuses it by name.
GENERATION_PARAMETERS = frozenset(
    {
        "max_new_tokens",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "stop",
        "seed",
        "frequency_penalty",
        "presence_penalty",
        "logprobs",
        "top_logprobs",
        "extra",
    }
)


# What a price may be made of, in USD: per million tokens in and out, per request, per image that is drawn.
PRICE_PARTS = ("input", "output", "per_request", "per_image")


class LLM(Spec):
    """A model by name, and how to ask it.

    `max_concurrency` is the most requests in flight, `rpm` and `tpm` are limits per minute. `price` overrides the
    price list, in USD: (per million input tokens, per million output tokens), or a dict with any of `input`,
    `output`, `per_request` and `per_image`.
    """

    provider: ClassVar[str] = ""
    title: ClassVar[str] = ""  # the provider's name in sentences
    extra_name: ClassVar[str] = ""  # the extra that installs its SDK, if one is needed
    parameters: ClassVar[Mapping[str, Wire]] = {}  # what it takes, unified names first, and how it calls each
    makes: ClassVar[Literal["text", "vector", "image"]] = "text"  # what its replies hold
    # The ways in which it is shown images: by their address ("url"), with their bytes ("file"); none: it is not.
    takes_images: ClassVar[frozenset[str]] = frozenset()
    max_n: ClassVar[int | None] = None  # the most replies that one request brings; more are asked for again
    failures: ClassVar[tuple[Sign, ...]] = ()  # its errors, where they mean another thing than everybody's
    key_variable: ClassVar[str] = ""  # the environment variable that holds the API key, if one is needed
    other_key_variables: ClassVar[tuple[str, ...]] = ()  # further names of it
    is_local: ClassVar[bool] = False  # runs on this machine: costs nothing
    shorthand: ClassVar[Mapping[str, frozenset[str]]] = {"generation_kwargs": GENERATION_PARAMETERS}
    # The ways in which the provider itself can force each shape, best first, by names that its client knows. What
    # every model can do, being told in the prompt, comes after them by itself.
    forces: ClassVar[Mapping[ShapeKind, tuple[str, ...]]] = {}
    not_in_digest: ClassVar[frozenset[str]] = frozenset(
        {"max_concurrency", "rpm", "tpm", "timeout", "max_retries", "price"}
    )

    model: str
    api_key: SecretStr | None = None
    generation_kwargs: dict[str, Any] = Field(default_factory=dict)
    max_concurrency: int = Field(default=64, ge=1)
    rpm: int | None = Field(default=None, ge=1)
    tpm: int | None = Field(default=None, ge=1)
    timeout: float = Field(default=120.0, gt=0)  # seconds for one request
    max_retries: int = Field(default=6, ge=0)
    price: tuple[float, float] | dict[str, float] | None = None

    def __init__(self, **values: Any) -> None:
        if self.parameters and isinstance(values.get("generation_kwargs"), Mapping):
            known = GENERATION_PARAMETERS | self.parameters.keys()
            given = unify_parameters(type(self).__name__, values["generation_kwargs"], known)
            values["generation_kwargs"] = given
        if not isinstance(values.get("api_key"), (str, SecretStr, type(None))):
            # Here, because the message of a validation would quote the value.
            kind = type(values["api_key"]).__name__
            raise SpecError(f"api_key is of type {kind!r}.", "Give the key as text.")
        if (price := values.get("price")) is not None and not is_price(price):
            raise SpecError(
                f"price is {price!r:.80}.",
                f"In USD, with any of {', '.join(PRICE_PARTS)}: price={{'per_image': 0.04}}; or price=(0.15, 0.60).",
            )
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise explain_validation(type(self).__name__, error, set(type(self).model_fields)) from error

    # --- what a provider overrides ---

    def make_client(self) -> Client:
        """Return a live client for the running event loop."""
        raise SpecError(
            f"{type(self).__name__} has no `make_client`.", "Return an object with `send` and `close`."
        )

    def make_caller(self, gate: Gate) -> Caller | None:
        """Return what asks this model within the limits of a gate; None: whatever asks all others."""
        return None

    def identity(self) -> dict[str, Any]:
        """Return what makes the replies this model's own: provider, endpoint, model, sampling parameters."""
        told = {"provider": self.provider, "model": self.model, "parameters": dict(self.generation_kwargs)}
        # Models that write have no word of it: replies that were paid for before others could be asked keep their keys.
        return told if self.makes == "text" else {**told, "makes": self.makes}

    @property
    def members(self) -> tuple[LLM, ...]:
        """The models that this one is made of, and has ask in its place; none for a model that sends by itself."""
        return ()

    def members_at(self) -> Iterator[tuple[str, LLM]]:
        """Yield the members with their places, as parameter paths name them."""
        for field in type(self).model_fields if self.members else ():
            value, lead = getattr(self, field), "" if field in self.shorthand else f"{field}."
            if isinstance(value, LLM):
                yield field, value
            elif isinstance(value, (list, tuple)):
                yield from ((f"{lead}{n}", one) for n, one in enumerate(value) if isinstance(one, LLM))

    def parts(self, request: Request, repeat: int = 0) -> list[Part[LLM]]:
        """Return who gives each reply to a request; `repeat` is how many equal ones of its step came before it."""
        return [Ask(self, request, request.first + index) for index in range(request.n)]

    def shape_modes(self, shape: ReplyShape) -> tuple[str, ...]:
        """Return the ways to try, best first, in which this model can be made to keep to a shape.

        One that the server refuses is left out for the rest of the run, at no cost to the row. An empty tuple: the
        prompt says what is wanted.
        """
        return self.forces.get(shape.kind, ())

    @property
    def reply_shape(self) -> ReplyShape | None:
        """The shape that the model's own settings (`structured_output`) ask of every reply to a task without one."""
        return None

    def check(self) -> None:
        """Raise what is wrong before any request: a missing key, an unsupported parameter."""
        self.check_key()
        self.check_parameters()

    def check_key(self) -> None:
        """Raise MissingKeyError where the provider needs a key and none is set."""
        forget_keys()
        if self.key_variable and not self.key():
            raise MissingKeyError(
                f"No API key for {self.provider} is set.",
                how_to_give(self.key_variable),
                provider=self.provider,
            )

    def check_parameters(self) -> None:
        """Raise UnsupportedParameterError for a generation parameter that the provider lacks."""
        if not self.parameters:
            return
        for name in sorted(self.generation_kwargs.keys() - self.parameters.keys() - {"extra"}):
            raise self.unsupported(name)

    def check_images(self) -> None:
        """Raise UnsupportedParameterError where the provider takes no images."""
        if not self.takes_images:
            raise UnsupportedParameterError(
                f"{self.title or self.label} is sent no images, which {self.model!r} is given.",
                NO_IMAGES_FIX,
                provider=self.provider,
            )

    def image_tokens(self, image: Image) -> int:
        """Return about how many tokens an image in a message is counted as."""
        return IMAGE_TOKENS

    @property
    def tells_tokens(self) -> bool:
        """Whether the provider tells how many tokens a request took, as far as that is known beforehand."""
        return True

    def shown_reply(self, text: str | None) -> str:
        """Return a reply as it is shown where something went wrong: vectors and images are told of only."""
        if text is None:
            return "(no text)"
        if self.makes == "text":
            return text
        return f"[{self.makes}, {len(text) * 3 // 4:,} bytes]"

    def unsupported(self, name: str) -> UnsupportedParameterError:
        """Make the error for a generation parameter that the provider lacks."""
        return UnsupportedParameterError(
            f"{self.title}'s API has no parameter {name!r}, which {self.model!r} is given.",
            f"Leave {name} out; what only this server knows goes into extra={{...}}.",
            provider=self.provider,
        )

    def probe(self) -> None:
        """Raise when the server cannot be reached; called once before a run starts."""

    # --- what the rest of the project asks ---

    def key(self) -> str:
        """Return the API key: the literal one, else that of environment, Colab or keyring; "" when there is none."""
        if self.api_key is not None:
            return self.api_key.get_secret_value()
        found = self.find_own_key()
        return found[1].value if found else ""

    def key_source(self) -> str:
        """Return where the key is from: "env:OPENAI_API_KEY", "colab:…", "keyring:…", "literal"; "" without one."""
        key = self.key()
        if self.api_key is not None or not key:
            return "literal" if key else ""
        found = self.find_own_key()
        return f"{found[1].place}:{found[0]}" if found and found[1].value == key else ""

    @classmethod
    def find_own_key(cls) -> tuple[str, Found] | None:
        """Return the variable that names a key, and the key; None without one.

        Raises MissingKeyError where there is none but one that Colab holds and this notebook may not read.
        """
        refused: MissingKeyError | None = None
        for variable in filter(None, (cls.key_variable, *cls.other_key_variables)):
            try:
                found = find_key(variable)
            except MissingKeyError as error:
                refused = refused or error
                continue
            if found:
                return variable, found
        if refused is not None:
            raise refused
        return None

    def senders(self) -> Iterator[LLM]:
        """Yield the models that send: this one, or those that its members come to, in their order."""
        if not self.members:
            yield self
        for member in self.members:
            yield from member.senders()

    @property
    def is_deterministic(self) -> bool:
        """Whether equal requests have equal replies: vectors, and texts at temperature 0 or with a seed."""
        given = self.generation_kwargs
        return self.makes == "vector" or given.get("temperature") == 0 or given.get("seed") is not None

    @property
    def pre_query_template(self) -> str:
        """What Magpie's requests are written with: the name of a template or a text; "" where there is none."""
        return ""

    @property
    def texts_per_request(self) -> int:
        """How many rows' texts share one request; `max_concurrency` and `rpm` count requests."""
        return 1

    @property
    def endpoint(self) -> str:
        """The URL of the server that is asked; "" where the provider's SDK or this process knows it."""
        return ""

    @property
    def goes_by_batch(self) -> bool:
        """Whether runs hand requests over as jobs, to be done within a day: its own, or those of some member."""
        return any(member.goes_by_batch for member in self.members)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The URLs of all servers that are asked, where there are several of them."""
        return (self.endpoint,) if self.endpoint else ()

    @property
    def label(self) -> str:
        """The short name in tables: provider and model."""
        return f"{self.provider}:{self.model}"

    @overload
    def ask(self, prompt: str | list[Message], *, n: int = 1) -> str | list[str]: ...

    @overload
    def ask(self, prompt: str | list[Message], *, n: int = 1, schema: object, max_reasks: int = 2) -> Any: ...

    def ask(
        self, prompt: str | list[Message], *, n: int = 1, schema: object = None, max_reasks: int = 2
    ) -> Any:
        """Ask one question now and return the reply (a list for n > 1). Works in a notebook too.

        `schema` is a pydantic model, a JSON schema (a dict), a regular expression or a list of choices. The reply is
        then an instance of the model, the data, or the text; one that does not fit is asked for again with what is
        wrong with it, at most `max_reasks` times. Raises ParseError when none fits.
        """
        from distilnb.llms.calling import ask_now  # asyncio is needed only here

        if schema is None and self.reply_shape is None:
            return ask_now(self, prompt, n=n)
        from distilnb.llms.asking import ask_shaped

        return ask_shaped(self, prompt, schema, n=n, max_reasks=max_reasks)

    def __or__(self, backup: object) -> LLM:
        """Return a model that asks `backup`, a model or its name, for what this one fails to answer."""
        return _with_backup(self, backup) if isinstance(backup, (LLM, str)) else NotImplemented

    def __ror__(self, first: object) -> LLM:
        return _with_backup(first, self) if isinstance(first, str) else NotImplemented

    def __getstate__(self) -> dict[Any, Any]:
        """Leave a literal key out of every pickle; the environment's is read anew where it is used."""
        state = super().__getstate__()
        return {
            **state,
            "__dict__": {**state["__dict__"], "api_key": None},
            "__pydantic_fields_set__": state["__pydantic_fields_set__"] - {"api_key"},
        }


def _with_backup(*llms: LLM | str) -> LLM:
    kind: Callable[..., Spec] = load_kind("FallbackLLM")
    combined = kind(llms=llms)
    assert isinstance(combined, LLM)
    return combined


def is_price(value: object) -> bool:
    """Whether this says a price: two amounts, per million tokens in and out, or a dict of `PRICE_PARTS`."""
    if isinstance(value, Mapping):
        amounts, is_known = list(value.values()), bool(value) and value.keys() <= set(PRICE_PARTS)
    else:
        amounts = list(value) if isinstance(value, (list, tuple)) else []
        is_known = len(amounts) == 2
    return is_known and all(
        isinstance(n, (int, float)) and not isinstance(n, bool) and 0 <= n < math.inf for n in amounts
    )


def limits_key(llm: LLM) -> tuple[object, ...]:
    """Return what models of equal digest must have in common to share one set of limits; it holds the API key."""
    return (llm.max_concurrency, llm.rpm, llm.tpm, llm.timeout, llm.max_retries, llm.key())
