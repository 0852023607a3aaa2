"""Templates and expressions over the columns of a row: sandboxed, and strict about what is not there."""

from __future__ import annotations

import ast
import keyword
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from distilnb.errors import MissingValueError, RowError, StepRowError, TemplateError, did_you_mean
from distilnb.spec.plain_template import Piece, split_plain

if TYPE_CHECKING:
    from jinja2 import Template, nodes
    from jinja2.environment import TemplateExpression
    from jinja2.sandbox import SandboxedEnvironment


def _plain(kind: type) -> Callable[..., Any]:
    """Return a type as a function without its methods: Jinja guards `"…".format`, not `str.format`."""

    def make(*values: Any, **options: Any) -> Any:
        return kind(*values, **options)

    return make


# What an expression may call besides Jinja's own filters and tests.
_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    **{f.__name__: f for f in (abs, all, any, len, max, min, round, sum)},
    **{kind.__name__: _plain(kind) for kind in (float, int, str)},
}

# What a row's own values make an expression or a template raise.
_VALUE_ERRORS = (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError)


class CompiledTemplate(NamedTuple):
    """A template with its variables; those in `may_be_none` are tested by the template itself.

    `pieces` is set where it is made of text, bare variables and items of lists only. Then Jinja is not needed, which
    costs a process a twentieth of a second to import, and ten times as long to fill.
    """

    template: Template | None
    variables: tuple[str, ...]
    may_be_none: frozenset[str] = frozenset()
    pieces: tuple[Piece, ...] = ()


class CompiledExpression(NamedTuple):
    """An expression with its variables; the name `row` stands for the whole row and is none of them.

    `quick` is the same as a plain function of the row, where it is made of columns, constants and comparisons
    only: a tenth of the time. What it raises is left to `expression`, which tells it in words. `quick_columns` is the
    same of whole columns: it returns a list of truths.
    """

    expression: TemplateExpression
    variables: tuple[str, ...]
    quick: Callable[[Mapping[str, Any]], Any] | None
    quick_columns: Callable[[Mapping[str, list[Any]]], list[bool]] | None


@lru_cache(maxsize=512)
def compile_template(text: str, first_line: int = 1) -> CompiledTemplate:
    """Compile a template; `first_line` is where it starts in what the user wrote.

    Raises TemplateError naming the line.

    >>> compile_template("{{ question }}{% if context %} ({{ context }}){% endif %}").variables
    ('question', 'context')
    """
    pieces = split_plain(text, _WORDS)
    if pieces is not None:
        return CompiledTemplate(
            None, tuple(dict.fromkeys(one.text for one in pieces if one.is_column)), pieces=pieces
        )
    tree = _parse(text, first_line)
    from jinja2 import nodes

    for node in tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
        raise TemplateError(
            f"Line {node.lineno + first_line - 1} of the template includes another file.",
            "A template stands alone; write the text in it, or pass it as a column.",
        )
    template = _guarded(lambda: _environment().from_string(text), "template", text, first_line)
    return CompiledTemplate(template, _variables(tree), frozenset(_tested(tree)))


@lru_cache(maxsize=512)
def compile_expression(text: str) -> CompiledExpression:
    """Compile an expression such as `chosen_rating >= 4 and topic != "code"`.

    Raises TemplateError when it cannot be read.

    >>> compile_expression("len(text) > 20 and row['type-of-text'] == 'essay'").variables
    ('text', 'type-of-text')
    """
    if not text.strip():
        raise TemplateError("The expression is empty.", "For instance: chosen_rating >= 4")
    environment = _environment()
    compiled = _guarded(
        lambda: environment.compile_expression(text, undefined_to_none=False), "expression", text, 1
    )
    tree = _parse("{{ " + text + " }}", 1)
    from jinja2 import nodes

    quick = _quick_form(tree)  # first: looking for variables folds constants in the tree
    named = [name for name in _variables(tree) if name != "row"]
    for node in tree.find_all(nodes.Getitem):
        if (
            isinstance(node.node, nodes.Name)
            and node.node.name == "row"
            and isinstance(node.arg, nodes.Const)
        ):
            named.append(str(node.arg.value))
    forms = (None, None) if quick is None else (_of_row(quick), _of_columns(quick))
    return CompiledExpression(compiled, tuple(dict.fromkeys(named)), *forms)


def render_template(text: str, row: Mapping[str, Any]) -> str:
    """Fill a template from a row.

    Raises MissingValueError when a variable is None, NaN or absent, StepRowError when the values do not fit.

    >>> render_template("Say {{ word }}.", {"word": "cheese"})
    'Say cheese.'
    """
    compiled = compile_template(text)
    for name in compiled.variables:
        if is_missing(row.get(name)) and name not in compiled.may_be_none:
            raise missing_value(name, row)
    template = compiled.template
    if template is None:
        try:
            return _fill(compiled.pieces, row)
        except _NotQuick:
            template = _with_jinja(text)
        except _VALUE_ERRORS as error:
            raise _misfit(error, "template", compiled.variables, row) from error
    values = {**dict.fromkeys(compiled.may_be_none), **row}
    return str(_evaluated(lambda: template.render(values), "template", compiled.variables, row))


def _fill(pieces: Sequence[Piece], row: Mapping[str, Any]) -> str:
    return "".join(
        [
            text if not is_column else str(row[text] if place is None else _item(row[text], place))
            for text, is_column, place in pieces
        ]
    )


def _item(value: Any, place: int) -> Any:
    """Return an item of a list; raises _NotQuick where there is none: Jinja knows what that comes to."""
    if type(value) not in (list, tuple) or place >= len(value) or is_missing(value[place]):
        raise _NotQuick
    return value[place]


def evaluate_expression(text: str, row: Mapping[str, Any]) -> bool:
    """Return whether an expression holds for a row.

    Raises MissingValueError when it needs a value that is None or absent, StepRowError when the values do not
    fit.

    >>> evaluate_expression("stars >= 4", {"stars": 5})
    True
    """
    compiled = compile_expression(text)
    if compiled.quick is not None:
        try:
            return bool(compiled.quick(row))
        except _VALUE_ERRORS:
            pass
    values = row if "row" in row else {**row, "row": row}
    return bool(_evaluated(lambda: bool(compiled.expression(values)), "expression", compiled.variables, row))


def is_missing(value: object) -> bool:
    """Whether a value stands for none: None, or the NaN that data frames have in its place."""
    return value is None or (isinstance(value, float) and value != value)


def missing_value(column: str, row: Mapping[str, Any]) -> MissingValueError:
    """Return the error that names a column which is None, NaN or absent in a row."""
    if column in row:
        found = "None" if row[column] is None else "NaN"
        return MissingValueError(
            f"Column {column!r} is {found} in this row.", "Fill it, or filter such rows out."
        )
    return MissingValueError(
        f"Column {column!r} is absent in this row; it has {sorted(row)}.",
        did_you_mean(column, row, "Fill it, or filter such rows out."),
    )


# Words that are no variables to Jinja; of names that begin with "_" it has its own too.
_WORDS = frozenset(
    {"true", "false", "none", "True", "False", "None", "self", "range", *_FUNCTIONS, *keyword.kwlist}
)


# --- Jinja ----------------------------------------------------------------------


@lru_cache(maxsize=1)
def _environment() -> SandboxedEnvironment:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined,
        autoescape=False,  # prompts are plain text; what shows them escapes
        keep_trailing_newline=True,
        finalize=_refuse_none,
    )
    # Jinja's other names are for web pages: they would hide columns of the same name from the check, and they
    # are classes, from which a template could reach the rest of the program.
    environment.globals = {"range": environment.globals["range"], **_FUNCTIONS}
    environment.filters["default"] = environment.filters["d"] = _default
    return environment


@lru_cache(maxsize=512)
def _with_jinja(text: str) -> Template:
    """Return a plain template for Jinja, for rows whose values are not what it is plain for."""
    return _environment().from_string(text)


def _default(value: Any, default_value: Any = "", boolean: bool = False) -> Any:
    """Do what Jinja's filter does, for None and NaN too: that is how a column is empty."""
    from jinja2 import Undefined

    is_empty = isinstance(value, Undefined) or is_missing(value) or (boolean and not value)
    return default_value if is_empty else value


def _refuse_none(value: Any) -> Any:
    if is_missing(value):
        raise MissingValueError(
            f"A value that the template prints is {'None' if value is None else 'NaN'}.",
            "Print another one instead: {{ value or 'unknown' }}.",
        )
    return value


def _parse(text: str, first_line: int) -> nodes.Template:
    tree: nodes.Template = _guarded(lambda: _environment().parse(text), "template", text, first_line)
    return tree


def _guarded(compile_it: Any, what: str, text: str, first_line: int) -> Any:
    from jinja2 import TemplateSyntaxError

    try:
        return compile_it()
    except TemplateSyntaxError as error:
        line = error.lineno + first_line - 1
        where = f"Line {line} of the {what}" if what == "template" else f"The expression {text!r}"
        fix = (
            "Text with braces in it is kept as it is between {% raw %} and {% endraw %}."
            if what == "template"
            else ""
        )
        raise TemplateError(f"{where} cannot be read: {str(error.message).rstrip('.')}.", fix) from error
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
        raise TemplateError(f"The {what} cannot be compiled: {error}.", "Write it simpler.") from error


def _evaluated(run: Any, what: str, variables: tuple[str, ...], row: Mapping[str, Any]) -> Any:
    from jinja2 import TemplateError as JinjaError
    from jinja2 import UndefinedError

    try:
        return run()
    except UndefinedError as error:
        absent = next((name for name in variables if name not in row), None)
        if absent is not None:
            raise missing_value(absent, row) from error
        raise MissingValueError(f"The {what} needs a value that this row lacks: {error.message}.") from error
    except (*_VALUE_ERRORS, JinjaError) as error:
        raise _misfit(error, what, variables, row) from error


def _misfit(error: Exception, what: str, variables: Sequence[str], row: Mapping[str, Any]) -> RowError:
    """Return the error of a row whose values do not fit."""
    empty = next((name for name in variables if is_missing(row.get(name))), None)
    if empty is not None and isinstance(error, TypeError):
        return missing_value(empty, row)
    return StepRowError(
        f"The {what} fails on this row: {type(error).__name__}: {str(error).rstrip('.')}.",
        "Check the types of the columns.",
    )


def _variables(tree: nodes.Template) -> tuple[str, ...]:
    """Return the free names in the order of their first use."""
    from jinja2 import meta, nodes

    free = meta.find_undeclared_variables(tree)
    return tuple(dict.fromkeys(node.name for node in tree.find_all(nodes.Name) if node.name in free))


_COMPARISONS: Mapping[str, type[ast.cmpop]] = {
    "eq": ast.Eq,
    "ne": ast.NotEq,
    "lt": ast.Lt,
    "lteq": ast.LtE,
    "gt": ast.Gt,
    "gteq": ast.GtE,
    "in": ast.In,
    "notin": ast.NotIn,
}

_ARITHMETIC: Mapping[str, type[ast.operator]] = {
    "Add": ast.Add,
    "Sub": ast.Sub,
    "Mul": ast.Mult,
    "Div": ast.Div,
    "FloorDiv": ast.FloorDiv,
    "Mod": ast.Mod,
}


class _NotQuick(Exception):
    """An expression, or what a template is filled with, has a part that is left to Jinja's sandbox."""


def _quick_form(tree: nodes.Template) -> ast.expr | None:
    """Return a parsed `{{ expression }}` as Python code over `row`, or None when it calls or reaches into values."""
    from jinja2 import nodes

    try:
        outputs = [_to_python(node) for output in tree.find_all(nodes.Output) for node in output.nodes]
    except _NotQuick:
        return None
    return outputs[0] if len(outputs) == 1 else None


def _of_row(quick: ast.expr) -> Callable[[Mapping[str, Any]], Any]:
    of_row: Callable[[Mapping[str, Any]], Any] = _compiled(quick, "row")
    return of_row


def _of_columns(quick: ast.expr) -> Callable[[Mapping[str, list[Any]]], list[bool]] | None:
    """Return the same for columns: `[… for cells in zip(columns)]`; None for a constant, which has no length."""
    cells: dict[str, str] = {}

    class Cells(ast.NodeTransformer):
        def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
            name = node.slice.value if isinstance(node.slice, ast.Constant) else ""
            return ast.Name(cells.setdefault(str(name), f"cell_{len(cells)}"), ast.Load())

    condition = Cells().visit(deepcopy(quick))
    if not cells:
        return None
    frame = ast.parse(
        f"[True if CONDITION else False for {', '.join(cells.values())}, in "
        f"zip({', '.join(f'columns[{name!r}]' for name in cells)})]",
        mode="eval",
    )
    listed = frame.body
    if isinstance(listed, ast.ListComp) and isinstance(listed.elt, ast.IfExp):
        listed.elt.test = condition
    of_columns: Callable[[Mapping[str, list[Any]]], list[bool]] = _compiled(listed, "columns")
    return of_columns


def _compiled(body: ast.expr, parameter: str) -> Any:
    arguments = ast.arguments(
        posonlyargs=[], args=[ast.arg(parameter)], kwonlyargs=[], kw_defaults=[], defaults=[]
    )
    code = compile(
        ast.fix_missing_locations(ast.Expression(ast.Lambda(arguments, body))), "<expression>", "eval"
    )
    return eval(
        code, {"__builtins__": {}, "zip": zip}
    )  # our own tree: names and operators, no calls of a user


def _to_python(node: nodes.Node) -> ast.expr:
    from jinja2 import nodes

    if isinstance(node, nodes.Const) and isinstance(node.value, (str, int, float, bool, type(None))):
        return ast.Constant(node.value)
    if isinstance(node, nodes.Name) and node.name != "row":
        return ast.Subscript(ast.Name("row", ast.Load()), ast.Constant(node.name), ast.Load())
    if isinstance(node, (nodes.List, nodes.Tuple)):
        kind = ast.List if isinstance(node, nodes.List) else ast.Tuple
        return kind([_to_python(item) for item in node.items], ast.Load())
    if isinstance(node, nodes.Not):
        return ast.UnaryOp(ast.Not(), _to_python(node.node))
    if isinstance(node, (nodes.And, nodes.Or)):
        joint = ast.And() if isinstance(node, nodes.And) else ast.Or()
        return ast.BoolOp(joint, [_to_python(node.left), _to_python(node.right)])
    if isinstance(node, nodes.Compare):
        operators = [_COMPARISONS[operand.op]() for operand in node.ops]
        return ast.Compare(_to_python(node.expr), operators, [_to_python(one.expr) for one in node.ops])
    operator = _ARITHMETIC.get(type(node).__name__)
    if operator is not None and isinstance(node, nodes.BinExpr):
        return ast.BinOp(_to_python(node.left), operator(), _to_python(node.right))
    raise _NotQuick


def _tested(tree: nodes.Template) -> set[str]:
    """Return the names that the template itself tests for being there: `{% if x %}`, `{{ x or "" }}`, `{{ x|d }}`."""
    from jinja2 import nodes

    tested: set[str] = set()
    for branch in tree.find_all(nodes.If):
        tested |= _bare_names(branch.test)
    for choice in tree.find_all(nodes.CondExpr):
        tested |= _bare_names(choice.test)
    for either in tree.find_all(nodes.Or):
        tested |= _bare_names(either.left)
    for test in tree.find_all(nodes.Test):
        if test.name in {"none", "defined", "undefined"}:
            tested |= _bare_names(test.node)
    for filtered in tree.find_all(nodes.Filter):
        if filtered.name in {"default", "d"} and filtered.node is not None:
            tested |= _bare_names(filtered.node)
    return tested


def _bare_names(node: nodes.Node) -> set[str]:
    from jinja2 import nodes

    if isinstance(node, nodes.Name):
        return {node.name}
    if isinstance(node, (nodes.And, nodes.Or)):
        return _bare_names(node.left) | _bare_names(node.right)
    return _bare_names(node.node) if isinstance(node, nodes.Not) else set()
