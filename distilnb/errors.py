"""Every error that a user of distilnb can meet.

    DistilnbError
    ├── SpecError (a ValueError)          the pipeline is wrong; told before anything runs
    │   ├── MissingColumnError            a step reads a column that no earlier step makes
    │   ├── CycleError                    the steps form a circle
    │   ├── DuplicateStepError            two steps have one name
    │   ├── UnknownStepError              no step has that name
    │   ├── UnknownVersionError           the prompt of a step has no version of that number
    │   ├── StepConnectionError           steps are joined in a way that cannot run
    │   ├── UnknownParameterError         a parameter path leads nowhere
    │   ├── TemplateError                 a prompt or an expression cannot be read
    │   ├── UnknownKindError              a name is no known step, task or model class
    │   ├── UnsafeFileError               a pipeline file asks for more than it may
    │   └── CodeNotPortableError          a function cannot travel to a worker
    ├── InputError                        the rows that came in are wrong
    │   ├── NoRowsError                   the source holds no row
    │   ├── SourceNotFoundError           the file, folder or dataset does not exist
    │   └── SchemaConflictError           one column holds values that have no common type
    ├── ModelError                        a model did not answer (retryable, hint, provider, request_id)
    │   ├── MissingKeyError               no API key is set; told before the run
    │   ├── AuthenticationError           the provider refused the key
    │   ├── UnknownModelError             the provider does not know the model
    │   ├── RateLimitError                too many requests (retry_after_s)
    │   ├── ServerError                   the provider failed
    │   ├── RequestTimeoutError           no answer in time
    │   ├── UnreachableError              no connection
    │   ├── MalformedReplyError           the answer is not what the protocol says
    │   ├── QuotaExhaustedError           the account has no credit left, or its quota is used up
    │   ├── RefusedRequestError           the provider called the request invalid
    │   │   ├── ContextLengthError        it is longer than the model can read
    │   │   └── ContentFilterError        the provider's filter keeps it from the model
    │   ├── UnsupportedParameterError     the provider lacks a generation parameter
    │   ├── NoBatchesError                the server takes no offline batches
    │   ├── JobNotFoundError              the provider does not know an offline job that was handed to it
    │   ├── ModelLoadError                a local model could not be loaded
    │   ├── HostDiedError                 the process of a local model died of this request
    │   └── UnknownPriceError             a budget was set for a model without a price
    ├── RowError                          one row failed; it is quarantined and the run goes on
    │   ├── MissingValueError             a template variable is None
    │   ├── ParseError                    a reply could not be parsed
    │   ├── TruncatedReplyError           a reply was cut off and the task does not accept that
    │   ├── StepRowError                  a step raised on the row
    │   └── MissingPartnerError           the row's partner at a join failed or was filtered
    ├── RunError                          the run as a whole
    │   ├── RunNotFoundError              no run has that id
    │   ├── RunNotFinishedError           asked for the result of an unfinished run
    │   ├── RunFailedError                the run ended with an error
    │   ├── StepFailedError               a step failed as a whole
    │   └── StoreError                    the disk is full, read-only or unreadable
    ├── ExportError                       a dataset could not be written or pushed
    ├── ReviewError                       rows could not be sent to, or read from, a review tool
    └── MissingPackageError (an ImportError)   an optional package is not installed

An error says what happened, what exists and what to do: `what` is the first part, `fix` the last.
All of them pickle, because steps run in other processes.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from difflib import get_close_matches


class DistilnbError(Exception):
    """Base of all errors; `what` tells what happened, `fix` what to do about it."""

    def __init__(self, what: str = "", fix: str = "") -> None:
        super().__init__(what, fix)
        self.what = what
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.what}\n{self.fix}" if self.fix else self.what

    def _render_traceback_(self, *_: object) -> list[str]:
        """What IPython shows instead of the frames of this library: the message says what is wrong."""
        return [f"{type(self).__name__}: {self}"]

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), dict(self.__dict__)))


def _rebuild(kind: type[DistilnbError], state: dict[str, object]) -> DistilnbError:
    """Make an error again after its trip between processes, whatever its constructor takes."""
    error = kind.__new__(kind)
    DistilnbError.__init__(error, str(state.get("what", "")), str(state.get("fix", "")))
    error.__dict__.update(state)
    return error


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return "Did you mean 'x'?" for the nearest known word, else `otherwise`."""
    near = get_close_matches(word, list(known), n=1)
    return f"Did you mean {near[0]!r}?" if near else otherwise


class SpecError(DistilnbError, ValueError):
    """The pipeline is wrong as written."""


class MissingColumnError(SpecError):
    """A step reads a column that no earlier step makes."""


class CycleError(SpecError):
    """The steps form a circle."""


class DuplicateStepError(SpecError):
    """Two steps have one name."""


class UnknownStepError(SpecError):
    """No step has the name that was asked for."""


class UnknownVersionError(SpecError):
    """The prompt of a step has no version of that number."""


class StepConnectionError(SpecError):
    """Steps are connected in a way that cannot run."""


class UnknownParameterError(SpecError):
    """A parameter path leads to no field of a step or a model."""


class TemplateError(SpecError):
    """A prompt template or an expression cannot be compiled."""


class UnknownKindError(SpecError):
    """A name is no known class of step, task or model."""


class UnsafeFileError(SpecError):
    """A pipeline file asks for something that it may not do untrusted."""


class CodeNotPortableError(SpecError):
    """A function or class cannot be sent to a worker process."""


class InputError(DistilnbError):
    """The rows that came in are wrong."""


class NoRowsError(InputError):
    """A source holds no row."""


class SourceNotFoundError(InputError):
    """A file, folder or dataset does not exist."""


class SchemaConflictError(InputError):
    """One column holds values that have no common type."""


class ModelError(DistilnbError):
    """A model did not answer.

    `retryable` says whether the same request may succeed later, `fatal` whether every other request to the
    model would fail in the same way (a wrong key), which stops the run at once.
    """

    retryable = False
    fatal = False
    # What the request took before it failed: tokens of the input, of the output, requests, replies it is a guess for.
    paid: tuple[int, int, int, int] = (0, 0, 0, 0)

    def __init__(
        self,
        what: str = "",
        fix: str = "",
        *,
        provider: str = "",
        request_id: str = "",
        status: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(what, fix)
        self.provider = provider
        self.request_id = request_id
        self.status = status
        self.retry_after_s = retry_after_s

    def for_another(self) -> ModelError:
        """Return a copy for another request to raise, which has paid nothing and has a traceback of its own."""
        error = copy(self)
        error.paid = (0, 0, 0, 0)
        return error

    @property
    def hint(self) -> str:
        """What to do about it; the same text as `fix`."""
        return self.fix


class MissingKeyError(ModelError):
    """No API key is set for the provider."""

    fatal = True


class AuthenticationError(ModelError):
    """The provider refused the API key."""

    fatal = True


class QuotaExhaustedError(ModelError):
    """The account has no credit left, or its quota for the day or the month is used up: waiting does not help."""

    fatal = True


class UnknownModelError(ModelError):
    """The provider does not know the model."""

    fatal = True


class RateLimitError(ModelError):
    """The provider asks for fewer requests; `retry_after_s` is its word on when."""

    retryable = True


class ServerError(ModelError):
    """The provider failed to answer (HTTP 5xx)."""

    retryable = True


class RequestTimeoutError(ModelError):
    """No answer came in time."""

    retryable = True


class UnreachableError(ModelError):
    """No connection could be made, or it broke."""

    retryable = True


class MalformedReplyError(ModelError):
    """The answer is not what the protocol says (a cut body, a missing field)."""

    retryable = True


class RefusedRequestError(ModelError):
    """The provider called this request invalid (HTTP 400, 413, 422)."""


class ContextLengthError(RefusedRequestError):
    """The prompt and the tokens asked for are more than the model can hold."""


class ContentFilterError(RefusedRequestError):
    """The provider's filter refused the content of the request, or of all its replies."""


class UnsupportedParameterError(ModelError):
    """The provider lacks one of the generation parameters that were set."""

    fatal = True


class NoBatchesError(ModelError):
    """The server takes no offline batches: no job can be handed to it."""

    fatal = True


class JobNotFoundError(ModelError):
    """The provider does not know an offline job that was handed to it: another account's key, or a deleted job."""

    fatal = True


class ModelLoadError(ModelError):
    """A local model could not be loaded: by its library, or because its process died over it."""

    fatal = True


class HostDiedError(ModelError):
    """The process that holds a local model died whenever it was at this request, and is started anew for others."""


class UnknownPriceError(ModelError):
    """A budget was set, but the price of a model is unknown."""

    fatal = True


class RowError(DistilnbError):
    """One row failed; it is quarantined and the run goes on."""


class MissingValueError(RowError):
    """A column that a prompt or a step needs is None or absent in this row."""


class ParseError(RowError):
    """A reply could not be parsed."""


class TruncatedReplyError(RowError):
    """A reply was cut off at the token limit and the task asks for whole ones."""


class StepRowError(RowError):
    """A step raised an error on this row."""


class MissingPartnerError(RowError):
    """The row's partner at a join failed, or was filtered, in another branch."""


class RunError(DistilnbError):
    """Something about a run as a whole."""


class RunNotFoundError(RunError):
    """No run has the id that was asked for."""


class RunNotFinishedError(RunError):
    """The result of a run was asked for before the run had finished."""

    def __init__(self, what: str = "", fix: str = "", *, run_id: str = "") -> None:
        super().__init__(what, fix)
        self.run_id = run_id


class RunFailedError(RunError):
    """The run ended with an error."""

    def __init__(self, what: str = "", fix: str = "", *, run_id: str = "") -> None:
        super().__init__(what, fix)
        self.run_id = run_id


class StepFailedError(RunError):
    """A step failed as a whole: its `load` raised, or a global step did."""


class StoreError(RunError):
    """The run directory or the reply cache cannot be written or read."""


class ExportError(DistilnbError):
    """A dataset could not be written, read or pushed."""


class ReviewError(DistilnbError):
    """Rows could not be sent to, or read back from, a review tool."""


class MissingPackageError(DistilnbError, ImportError):
    """An optional package is not installed."""
