"""The conditions of rules: CEL expressions over the facts of an order or parcel, checked before they are accepted.

CEL (https://github.com/google/cel-spec) always terminates, but nested lists cost their product. So the tokens of an
expression are checked once: it may name only known facts and the functions listed here, and its cost over the longest
lists is bounded. Then it is tried on sample facts.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import JsonValue

from models.i18n import InvalidValue, message
from models.review import MAX_EXPRESSION_LENGTH, Values

if TYPE_CHECKING:
    import cel  # loaded on first use: it brings a terminal library

Facts = Mapping[str, Any]
"""The facts of one order or parcel: root → field → value; ``lines`` is a list of such fields."""

LONGEST_LIST = 200
BUDGET = 250_000
"""Steps that an expression may cost over the longest lists: about a tenth of a second."""
_REGEX_STEPS = 300
_MACROS = frozenset({"all", "exists", "exists_one", "filter", "map"})
_FUNCTIONS = frozenset({"size", "contains", "startsWith", "endsWith", "matches", "has", "int", "double"})
_WORDS = frozenset({"true", "false", "in"})
_SHOWN_LINES = 10
_LOOKAHEAD = 4
"""Tokens."""

_TOKEN = re.compile(
    r"""(?P<space>\s+)
    |(?P<string>"(?:[^"\\\x00-\x1f]|\\[^\x00-\x1f])*"|'(?:[^'\\\x00-\x1f]|\\[^\x00-\x1f])*')
    |(?P<raw>r"[^"\x00-\x1f]*"|r'[^'\x00-\x1f]*')
    |(?P<number>(?:\d+\.\d+|\d+)(?:[eE][+-]?\d+)?)
    |(?P<name>[A-Za-z_]\w*)
    |(?P<sign>&&|\|\||[<>=!]=|[-+*/%<>!?:.,()\[\]])""",
    re.VERBOSE | re.ASCII,
)


class InvalidExpression(InvalidValue):
    """Why an expression is refused; ``position`` counts characters from 0, where known."""

    def __init__(self, key: str, position: int | None = None, **params: object) -> None:
        super().__init__(key, **params)
        self.position = position

    @property
    def described(self) -> str:
        """Return the message with its position, counted from 1."""
        if self.position is None:
            return self.message
        return message("expression.at", why=self.message, position=self.position + 1)


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The facts that conditions may name, as sample facts; the first sample has every fact."""

    samples: Sequence[Facts]

    @property
    def roots(self) -> frozenset[str]:
        return frozenset(self.samples[0])

    def knows(self, path: str) -> bool:
        """Return whether the fact exists. Any field of ``order.custom`` does; a condition checks it with ``has``."""
        root, _, field = path.partition(".")
        if path.startswith("order.custom."):
            return root in self.samples[0] and path.count(".") == 2
        facts = self.samples[0].get(root)
        if path == "lines":
            return facts is not None
        return field in (facts[0] if isinstance(facts, list) else facts or ())

    def check(self, text: str) -> "Expression":
        """Return the expression after evaluating it on all samples. Raises ``InvalidExpression``."""
        expression = self.compile(text)
        for sample in self.samples:
            expression.evaluate(context(expression.roots, sample))
        return expression

    def compile(self, text: str) -> "Expression":
        """Return the expression after checking names and cost. Raises ``InvalidExpression``."""
        return _compiled(self, text)


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


@dataclass(frozen=True)
class Expression:
    """A compiled condition."""

    program: "cel.Program"
    paths: frozenset[str]
    """The facts that the condition names: ``order.total``, ``lines.sku``."""
    words: tuple[str, ...]
    """The string literals of the condition."""

    @property
    def roots(self) -> frozenset[str]:
        return frozenset(path.partition(".")[0] for path in self.paths)

    def evaluate(self, context: "cel.Context") -> bool:
        """Return whether the condition is true. Raises ``InvalidExpression`` where evaluation fails."""
        try:
            result = self.program.execute(context)
        except Exception as error:
            raise InvalidExpression(_explain(error)) from None
        if not isinstance(result, bool):
            raise InvalidExpression("expression.not_boolean")
        return result

    def values(self, facts: Facts) -> Values:
        """Return the values of the facts named. Of remarks, which are personal, only the literals found in them."""
        values: Values = {}
        of_lines = sorted(path.partition(".")[2] for path in self.paths if path.startswith("lines."))
        for path in sorted(self.paths):
            root, _, field = path.partition(".")
            if root == "remarks":
                text = str(facts[root].get(field, ""))
                found: list[JsonValue] = [word for word in self.words if word and word in text]
                values[path] = found
            elif root != "lines":
                values[path] = _value_at(facts, path)
        if of_lines:
            values["lines"] = [{field: line[field] for field in of_lines} for line in facts["lines"][:_SHOWN_LINES]]
        return values


def context(roots: frozenset[str], facts: Facts) -> "cel.Context":
    import cel

    return cel.Context(variables={root: facts[root] for root in roots})


@lru_cache(2048)
def _compiled(vocabulary: Vocabulary, text: str) -> Expression:
    import cel

    if len(text) > MAX_EXPRESSION_LENGTH:
        raise InvalidExpression("expression.too_long", MAX_EXPRESSION_LENGTH, most=MAX_EXPRESSION_LENGTH)
    tokens = list(_tokens(text))
    reader = _Reader(tokens, vocabulary)
    paths = reader.paths()
    try:
        program = cel.compile(text)
    except Exception as error:
        column = re.search(r"<input>:(\d+):(\d+)", str(error))
        raise InvalidExpression(_explain(error), _position(text, column)) from None
    if hidden := set(program.variables()) - reader.names:
        raise InvalidExpression("expression.hidden", name=min(hidden))
    words = tuple(dict.fromkeys(each.text.removeprefix("r")[1:-1] for each in tokens if each.kind in ("string", "raw")))
    return Expression(program=program, paths=frozenset(paths), words=words)


def _tokens(text: str) -> Iterator[_Token]:
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or text.startswith(("//", '"""', "'''"), at):
            raise InvalidExpression("expression.character", at, character=repr(text[at]))
        if match.lastgroup != "space":
            yield _Token(str(match.lastgroup), match[0], at)
        at = match.end()


class _Reader:
    """Reads an expression by its tokens: the facts that it names, and its cost."""

    def __init__(self, tokens: list[_Token], vocabulary: Vocabulary) -> None:
        end = _Token("end", "", tokens[-1].at + len(tokens[-1].text) if tokens else 0)
        self.tokens = [*tokens, *[end] * _LOOKAHEAD]
        self.vocabulary = vocabulary
        self.found: set[str] = set()
        self.names: set[str] = set()
        """The roots of facts, and loop variables."""
        self.cost = 0

    def paths(self) -> set[str]:
        variables: dict[str, list[str]] = defaultdict(list)
        """Loop variables in scope → the paths of what they iterate; ``""`` where that is not a fact."""
        loops: list[tuple[int, str]] = []
        """The parenthesis depth of each open macro, and its variable."""
        depth = 0
        number = 0
        while (token := self.tokens[number]).kind != "end":
            width = LONGEST_LIST ** len(loops)
            self._spend(width, token)
            number += 1
            match token:
                case _Token("name", text, _) if text in _WORDS:
                    if text == "in":
                        self._spend(width * LONGEST_LIST, token)
                case _Token("name"):
                    number, over, macro = self._path(number - 1, variables, width)
                    if macro:
                        variable, number = self._begin(number, macro)
                        variables[variable].append(over)
                        depth += 1
                        loops.append((depth, variable))
                case _Token("sign", ".", _):
                    number, macro = self._method(number, width)
                    if macro:
                        variable, number = self._begin(number, macro)
                        variables[variable].append("")
                        depth += 1
                        loops.append((depth, variable))
                case _Token("sign", "(" | "[", _):
                    depth += 1
                case _Token("sign", ")" | "]", _):
                    if loops and loops[-1][0] == depth:
                        variables[loops.pop()[1]].pop()
                    depth -= 1
        return self.found

    def _spend(self, steps: int, token: _Token) -> None:
        self.cost += steps
        if self.cost > BUDGET:
            raise InvalidExpression("expression.cost", token.at)

    def _path(self, number: int, variables: Mapping[str, list[str]], width: int) -> tuple[int, str, _Token | None]:
        """Read a dotted name; return the index of the token after it, the path, and the macro called on it."""
        first = self.tokens[number]
        root = first.text
        if self.tokens[number + 1].text == "(":
            self._function(first, width)
            return number + 1, "", None
        fields: list[str] = []
        number += 1
        while self.tokens[number].text == "." and self.tokens[number + 1].kind == "name":
            name = self.tokens[number + 1]
            if self.tokens[number + 2].text == "(":
                if name.text in _MACROS:
                    return number + 2, self._name(first, root, fields, variables, number + 1), name
                break
            fields.append(name.text)
            number += 2
        self._name(first, root, fields, variables, number)
        return number, "", None

    def _name(
        self, first: _Token, root: str, fields: list[str], variables: Mapping[str, list[str]], number: int
    ) -> str:
        """Record the fact named, and return its path. Raises ``InvalidExpression`` where the fact is unknown."""
        if variables.get(root):
            over = variables[root][-1]
            path = ".".join((over, *fields)) if over else ""
            if over == "lines" and not fields:
                raise InvalidExpression("expression.line", first.at, name=root)
        else:
            path = ".".join((root, *fields))
        if not path:
            if fields:
                raise InvalidExpression("expression.field", first.at, name=root, field=fields[0])
            return ""
        if path == "lines" and self.tokens[number].text not in _MACROS:
            raise InvalidExpression("expression.lines", first.at)
        if not self.vocabulary.knows(path):
            raise InvalidExpression("expression.fact", first.at, fact=path)
        self.found.add(path)
        self.names.add(path.partition(".")[0])
        return path

    def _method(self, number: int, width: int) -> tuple[int, _Token | None]:
        """Read a method call on a string, a literal list or a result."""
        name, after = self.tokens[number], self.tokens[number + 1]
        if name.kind == "name" and after.text == "(":
            if name.text in _MACROS:
                if self.tokens[number - 2].text != "]":
                    raise InvalidExpression("expression.macro", name.at, macro=name.text)
                return number + 1, name
            self._function(name, width)
        elif name.kind == "name":
            raise InvalidExpression("expression.subject", name.at, name=name.text)
        return number + 1, None

    def _function(self, name: _Token, width: int) -> None:
        if name.text not in _FUNCTIONS:
            raise InvalidExpression("expression.function", name.at, function=name.text)
        if name.text == "matches":
            self._spend(width * _REGEX_STEPS, name)

    def _begin(self, number: int, macro: _Token) -> tuple[str, int]:
        """Read the start of a macro; return its variable, and the index of the token after the comma."""
        _, variable, comma = self.tokens[number : number + 3]
        if variable.kind != "name" or comma.text != "," or variable.text in self.vocabulary.roots | _WORDS | _FUNCTIONS:
            raise InvalidExpression("expression.loop", macro.at, macro=macro.text)
        self.names.add(variable.text)
        return variable.text, number + 3


def _value_at(facts: Facts, path: str) -> JsonValue:
    found: Any = facts
    for part in path.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found  # type: ignore[no-any-return]


def _explain(error: Exception) -> str:
    """Return CEL's error as a message, without the source that CEL repeats."""
    if isinstance(error, TypeError):
        return "expression.types"
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    text = text.partition("ERROR: ")[2].partition(": ")[2] or text
    if isinstance(error, KeyError):
        return message("expression.missing", name=text)
    return message("expression.cel", error=text.partition(" expecting ")[0])


def _position(text: str, found: re.Match[str] | None) -> int | None:
    """Return the offset of a line and column, both counted from 1."""
    if found is None:
        return None
    lines = text.splitlines(keepends=True)[: int(found[1]) - 1]
    return min(max(sum(map(len, lines)) + int(found[2]) - 1, 0), len(text))
