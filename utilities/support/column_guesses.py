"""Judges a statement that reads tables whose columns are not known, by guessing these.

What the analyser refuses says what is missing: a name is given to a table that may have it, a type
that does not fit is exchanged for another one. Only what no guess can cure is refused; what may
depend on a guess is not judged.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from zetasql import types

from support.googlesql import TOO_DEEP, Columns, SqlAnalyser, SqlError, TablePath, name_type

# A type that is guessed: the name of a scalar, the fields of a STRUCT, or the one element of an
# ARRAY.
Guess = str | dict[str, "Guess"] | list["Guess"]
# The way from a table to a guess in it: its columns, then fields of a STRUCT, and 0 for the element
# of an ARRAY.
Way = tuple[TablePath, tuple[str | int, ...]]

# A column that each table has whose columns may not all be known. When it comes out of a statement
# through `select *`, that statement's own columns are not all known: without it, a node that reads
# one of the others would be refused.
MARK = "dbt_check_more_columns"

# An analysis takes 10 to 30 ms. Without a limit, one statement of hundreds of unknown columns could
# take minutes; beyond it, the statement is judged for its grammar alone.
MOST_ANALYSES = 400

SCALARS = {
    name: types.Type(type_kind=types.TypeKind[f"TYPE_{'DOUBLE' if name == 'FLOAT64' else name}"])
    for name in (
        *("STRING", "INT64", "DATE", "TIMESTAMP", "FLOAT64", "BOOL", "NUMERIC", "DATETIME"),
        *("BYTES", "JSON", "TIME", "BIGNUMERIC", "INTERVAL", "GEOGRAPHY"),
    )
}
# An error counts as independent of a guessed column's type if it stays the same with each of these.
# With fewer, a statement could be refused that another type would have cured.
PROBES = ("STRING", "INT64", "DATE", "BOOL")

# The analyser gives these errors whatever columns the unknown tables have: the statement is refused
# without a guess.
HOPELESS = re.compile(
    r"Syntax error|Function not found|Table not found|Table-valued function not found|"
    rf"Model not found|Property graph not found|Type not found|Unrecognized name: @@|{TOO_DEEP}|"
    r"Aggregate function \S+ not allowed in WHERE|Multi-level aggregation requires|"
    r"The HAVING clause requires|The QUALIFY clause requires"
)
MISSING = re.compile(
    r"Unrecognized name: (`[^`]+`|\w+)|Name (.+?) not found inside|"
    r"Column (.+?) in (?:USING|SELECT \*)|"
    r"Field name (.+?) does not exist|Cannot access field (.+?) on"
)
# Errors of a column that is guessed in the wrong table: that table's `*` gives it once more, or it
# is not grouped by. The last two also come when a column is guessed in too few tables: in
# `(select max(x) from b)`, x is the outer query's unless b has one.
MISPLACED = re.compile(
    r"CREATE TABLE has columns with duplicate name (.+)|"
    r"Column (?:name )?(.+?) (?:in .+ )?is ambiguous|"
    r".* references column (.+?) which is (?:neither grouped nor aggregated|not visible)"
)
# Other types cannot end these errors, only other columns: to try types as well would take seconds.
NO_COLUMN = re.compile(
    r"Unrecognized name|Name .+? not found inside|Column .+? in (?:USING|SELECT \*)|"
    + MISPLACED.pattern
)
# Errors of a subquery that gives several columns where one is due. With a `*` that may be the fault
# of a guess, a column of another table guessed in this one: such a statement is not refused.
ONE_COLUMN = re.compile(r".*(?:only one output column|cannot have more than one column)")
MISMATCH = re.compile(
    r"No matching signature|Unable to (?:coerce|find common)|incompatible types|Invalid cast|"
    r"Could not cast|should return type|must be|not supported|does not support|is not allowed for|"
    r"expected type|type (?:mismatch|[A-Z])"
)


class DependsOnGuessError(Exception):
    """The statement is right or wrong according to columns that are not known."""


@dataclass
class GuessedTable:
    """A table whose columns are not known, or whose types are not.

    Attributes:
        columns: by their names in lower case, the types that are guessed so far.
        is_open: whether it may have other columns than these.
    """

    columns: dict[str, Guess] = field(default_factory=dict)
    is_open: bool = True


Tables = dict[TablePath, GuessedTable]


class Guesser:
    """Finds columns with which the analyser takes one statement."""

    def __init__(
        self,
        analyser: SqlAnalyser,
        statement: str,
        known: Mapping[TablePath, Columns],
        variables: Columns,
    ) -> None:
        """Args are those of `SqlAnalyser.find_columns`."""
        self.analyser, self.statement, self.known = analyser, statement, known
        self.variables = variables
        self.expressions: list[range] | None = None
        self.analyses = 0
        self.columns: Columns = {}

    def judge(self, tables: Tables) -> GuessedTable:
        """Return the columns that the statement gives, some tables of which are guessed.

        Raises SqlError for what no columns of these tables cure, DependsOnGuessError for what some
        might.
        """
        error = self._analyse(tables)
        if error and not self._cure(tables, error, frozenset()):
            raise DependsOnGuessError(str(error).partition("\n")[0])
        names = {name.lower(): kind for name, kind in self.columns.items()}
        is_open = any(name.startswith(MARK) for name in names)
        found = {n: make_guess(kind) for n, kind in names.items() if not n.startswith(MARK)}
        return GuessedTable(found, is_open)

    def _analyse(self, tables: Tables) -> SqlError | None:
        """Return what the analyser says against the statement with these columns."""
        self.analyses += 1
        if self.analyses > MOST_ANALYSES:
            raise DependsOnGuessError("trop de colonnes à deviner")
        guessed = {
            path: make_columns(table, number) for number, (path, table) in enumerate(tables.items())
        }
        try:
            tables_of_both = {**self.known, **guessed}
            self.columns = self.analyser.find_columns(
                self.statement, tables_of_both, self.variables
            )
        except SqlError as error:
            return error
        return None

    def _cure(self, tables: Tables, error: SqlError, seen: frozenset[Any]) -> bool:
        """Search columns with which there is no error, this one first; whether there are any."""
        if HOPELESS.match(str(error)) or has_wrong_count(error) or self._is_of_literals(error):
            raise error
        seen |= {make_key(error)}
        independent = True
        # A move whose next error is about the column that it changed has perhaps caused that error:
        # it is tried after the others, or the search would go on from a mistake.
        later = []
        for moved, names in self._list_moves(tables, error):
            new = self._analyse(moved)
            if new is None:
                return True
            independent = independent and (is_same(new, error) or leads_back(new, error, seen))
            if make_key(new) in seen:
                continue
            if names & self._find_words(new):
                later.append((moved, new))
            elif self._cure(moved, new, seen):
                return True
        if any(self._cure(moved, new, seen) for moved, new in later):
            return True
        if independent and self._is_independent(tables, error):
            raise error
        return False

    def _list_moves(self, tables: Tables, error: SqlError) -> Iterator[tuple[Tables, set[Any]]]:
        """Yield changes of the tables, and the names whose types they change; likeliest first."""
        if misplaced := find_name(MISPLACED, error):
            yield from ((moved, set()) for moved in list_other_owners(tables, misplaced))
        elif missing := find_name(MISSING, error):
            for way in self._list_owners(tables, error):
                yield from ((moved, set()) for moved in add(tables, way, missing, "STRING"))
        elif MISMATCH.search(str(error)):
            yield from self._list_other_types(tables, error)

    def _list_owners(self, tables: Tables, error: SqlError) -> Iterator[Way]:
        """Yield the ways to what may have the name that the error misses, the likeliest first."""
        message = str(error)
        parts = [way for way in list_places(tables) if way[1]]
        if not message.startswith(("Field name", "Cannot access field")):
            # In `(select key from unnest(params))`, `key` is a field of the array. As a column of
            # the table it would end the error as well, and be a wrong guess.
            texts = (text.lower() for text in self._find_expressions(error))
            subquery = next((text for text in texts if "unnest" in text), "")
            words = set(re.findall(r"\w+", subquery))
            yield from (way for way in parts if way[1][-1] == 0 and str(way[1][-2]) in words)
            yield from ((path, ()) for path, table in tables.items() if table.is_open)
        # The message prints the STRUCT that lacks the field, and the mark at its end tells which it
        # is. Without that, a field of the same name would go to the wrong STRUCT.
        marks = re.findall(rf"{MARK}\w*", message)
        numbers = {path: number for number, path in enumerate(tables)}
        for path, steps in parts:
            if marks and make_mark((numbers[path], *steps)) == marks[-1]:
                yield path, steps
                return
        names, around = self._find_path(error), self._find_words(error)
        yield from (way for way in parts if way[1][-1] in names)
        yield from (way for way in parts if way[1][-1] in {0, *around} - names)

    def _list_other_types(
        self, tables: Tables, error: SqlError
    ) -> Iterator[tuple[Tables, set[Any]]]:
        """Yield the tables with other types of the columns that the error has to do with."""
        message = str(error)
        # The message names the types that would fit: tried first, they save most of the analyses.
        text = message.replace("numeric", "INT64")
        named = (name for name in re.findall(r"[A-Z][A-Z0-9]+", text) if name in SCALARS)
        kinds: list[Guess] = [*dict.fromkeys([*named, "STRING"])]
        if re.search("must be arrays|OFFSET|ARRAY", message):
            kinds.insert(0, ["STRING"])
        leaves = [way for way in list_places(tables) if not isinstance(read(tables, way), dict)]
        names, around = self._find_path(error), self._find_words(error)
        near = [way for way in leaves if way[1][-1] in names | around]
        near.sort(key=lambda way: way[1][-1] not in names)
        for group in self._group(tables, near, leaves, error):
            for kind in kinds:
                yield change_all(tables, group, kind), {way[1][-1] for way in group}

    def _group(
        self, tables: Tables, near: list[Way], leaves: list[Way], error: SqlError
    ) -> Iterator[list[Way]]:
        """Yield the columns whose types are changed together.

        Those that the expression names: each, then all, as `a + b` takes two numbers. Then those
        from which something comes into it.
        """
        yield from ([way] for way in near)
        if len(near) > 1:
            yield near
        others = [way for way in leaves if way not in near]
        yield from ([way] for way in self._list_influential(tables, others, error))

    def _list_influential(self, tables: Tables, ways: list[Way], error: SqlError) -> Iterator[Way]:
        """Yield those whose types, if they were others, would change or hide the error."""
        if not ways or all(
            is_same(self._analyse(change_all(tables, ways, kind)), error) for kind in PROBES
        ):
            return
        if len(ways) == 1:
            yield ways[0]
            return
        middle = len(ways) // 2
        yield from self._list_influential(tables, ways[:middle], error)
        yield from self._list_influential(tables, ways[middle:], error)

    def _is_independent(self, tables: Tables, error: SqlError) -> bool:
        """Whether the error, which no move has changed, stays the same whatever is guessed."""
        places = [way for way in list_places(tables) if way[1]]
        if MARK in str(error):
            return False
        if ONE_COLUMN.match(str(error)) and "*" in "".join(self._find_expressions(error)[:1]):
            return False
        if NO_COLUMN.match(str(error)):
            # No type ends such an error, unless a STRUCT or an ARRAY is guessed: the name may be
            # that of a field, and the statement right.
            return all(isinstance(read(tables, way), str) for way in places)
        # A name in a subquery may be a column of the subquery's own table, where the guess has put
        # it in the outer query's. If the error ends once each open table has these names, a guess
        # caused it. (A table in which a name becomes ambiguous cannot have it.)
        names = self._find_path(error) | self._find_words(error)
        for path in (path for path, table in tables.items() if table.is_open):
            added: dict[str, Guess] = {name: {} for name in names}
            added["dbt_check_probe"] = "STRING"
            more = GuessedTable({**added, **tables[path].columns})
            new = self._analyse({**tables, path: more})
            if not is_same(new, error) and "is ambiguous" not in str(new):
                return False
        leaves = [way for way in places if not isinstance(read(tables, way), dict)]
        return not any(True for _ in self._list_influential(tables, leaves, error))

    def _is_of_literals(self, error: SqlError) -> bool:
        """Whether the expression that is refused names no column: it is refused alone, too."""
        if MISSING.match(str(error)):
            return False
        for text in self._find_expressions(error):
            try:
                self.analyser.find_columns(f"select {text}", {})
            except SqlError as alone:
                if str(alone) == str(error):
                    return True
        return False

    def _find_path(self, error: SqlError) -> set[Any]:
        """Return the words of the dotted name at an error, in lower case."""
        line, column = error.place
        names = re.finditer(r"[\w`.]+", self.statement.split("\n")[line - 1].lower())
        at = (name[0] for name in names if name.start() < column <= name.end())
        return set(re.findall(r"\w+", next(at, "")))

    def _find_words(self, error: SqlError) -> set[Any]:
        """Return the words of the smallest expression at an error, in lower case."""
        texts = self._find_expressions(error)
        return set(re.findall(r"\w+", texts[0].lower())) if texts else set()

    def _find_expressions(self, error: SqlError) -> list[str]:
        """Return the texts of the expressions at an error, the smallest first."""
        if self.expressions is None:
            self.expressions = self.analyser.list_expressions(self.statement)
        line, column = error.place
        lines = self.statement.split("\n")
        offset = len("\n".join([*lines[: line - 1], lines[line - 1][: column - 1]]).encode())
        text = self.statement.encode()
        return [
            text[place.start : place.stop].decode() for place in self.expressions if offset in place
        ]


def make_key(error: SqlError) -> tuple[str, tuple[int, int]]:
    """Return what tells two errors of one statement apart, whatever the types in them."""
    return re.split(r" for argument types|\n|: | but ", str(error))[0], error.place


def is_same(one: SqlError | None, other: SqlError) -> bool:
    """Whether the analyser says the same, of the same types, at the same place."""
    return one is not None and (str(one), one.place) == (str(other), other.place)


def leads_back(new: SqlError, error: SqlError, seen: frozenset[Any]) -> bool:
    """Whether a column, given to another table because of an error, is missing where it was."""
    name = find_name(MISPLACED, error)
    return bool(name) and find_name(MISSING, new) == name and make_key(new) in seen


def has_wrong_count(error: SqlError) -> bool:
    """Whether no signature of a function takes so many arguments, whatever their types."""
    signatures = str(error).count("\n  Signature: ")
    return 0 < signatures == str(error).count("\n    Signature requires at ")


def find_name(errors: re.Pattern[str], error: SqlError) -> str:
    """Return the name that an error of these is about, in lower case; none for another error."""
    found = errors.match(str(error))
    return next(filter(None, found.groups())).strip("`").lower() if found else ""


def make_columns(table: GuessedTable, number: int) -> Columns:
    """Return the columns of a guessed table for the analyser; its number keeps marks apart."""
    columns = {name: make_type(guess, (number, name)) for name, guess in table.columns.items()}
    if table.is_open:
        columns[make_mark((number,))] = SCALARS["STRING"]
    return columns


def make_type(guess: Guess, way: tuple[str | int, ...]) -> types.Type:
    """Return the analyser's type for a guess that stands at the end of a way."""
    if isinstance(guess, str):
        return SCALARS[guess]
    if isinstance(guess, list):
        element = types.ArrayType(element_type=make_type(guess[0], (*way, 0)))
        return types.Type(type_kind=types.TypeKind.TYPE_ARRAY, array_type=element)
    fields = {name: make_type(part, (*way, name)) for name, part in guess.items()}
    struct = types.StructType(
        field=[
            types.StructField(field_name=name, field_type=kind)
            for name, kind in {**fields, make_mark(way): SCALARS["STRING"]}.items()
        ]
    )
    return types.Type(type_kind=types.TypeKind.TYPE_STRUCT, struct_type=struct)


def make_mark(way: tuple[str | int, ...]) -> str:
    """Return the name that says of a table or a STRUCT that it may have more than is guessed."""
    return "_".join(map(str, (MARK, *way)))


def make_guess(kind: types.Type) -> Guess:
    """Return the guess that a type of the analyser is."""
    if kind.struct_type:
        return {
            field.field_name.lower(): make_guess(field.field_type)
            for field in kind.struct_type.field
            if not field.field_name.startswith(MARK)
        }
    if kind.array_type:
        return [make_guess(kind.array_type.element_type)]
    name = name_type(kind)
    return name if name in SCALARS else "STRING"


def list_places(tables: Tables) -> Iterator[Way]:
    """Yield the ways to all that is guessed: open tables, then columns and their parts."""
    yield from ((path, ()) for path, table in tables.items() if table.is_open)
    for path, table in tables.items():
        yield from ((path, way) for way in list_ways(table.columns))


def list_ways(guess: Guess) -> Iterator[tuple[str | int, ...]]:
    """Yield the ways to what a STRUCT or an ARRAY has in it."""
    parts = guess.items() if isinstance(guess, dict) else enumerate(guess)
    for name, part in parts:
        yield (name,)
        if not isinstance(part, str):
            yield from ((name, *way) for way in list_ways(part))


def read(tables: Tables, way: Way) -> Guess:
    """Return the guess at a place; the columns of a table count as a STRUCT."""
    guess: Any = tables[way[0]].columns
    for step in way[1]:
        guess = guess[step]
    return guess


def change(tables: Tables, way: Way, guess: Guess) -> Tables:
    """Return the tables with another guess at a place."""
    path, steps = way
    columns: Any = replace_at(tables[path].columns, steps, guess)
    return {**tables, path: GuessedTable(columns, tables[path].is_open)}


def add(tables: Tables, way: Way, name: str, guess: Guess) -> Iterator[Tables]:
    """Yield the tables with one more name at a place, unless it is there."""
    place = read(tables, way)
    fields = place if isinstance(place, dict) else {}
    if name not in fields:
        yield change(tables, way, {**fields, name: guess})


def list_other_owners(tables: Tables, name: str) -> Iterator[Tables]:
    """Yield the tables with a name elsewhere than where it is: nowhere, there, or there as well."""
    guesses = []
    for way in list_places(tables):
        place = read(tables, way)
        if isinstance(place, dict) and name in place:
            guesses.append(place[name])
            less = change(tables, way, {n: x for n, x in place.items() if n != name})
            yield less
            for other in list_from_places(less):
                if other != way:
                    yield from add(less, other, name, place[name])
    for way in list_from_places(tables):
        yield from add(tables, way, name, guesses[0] if guesses else "STRING")


def list_from_places(tables: Tables) -> Iterator[Way]:
    """Yield the ways to what a FROM clause reads: open tables, and the elements of arrays."""
    yield from (way for way in list_places(tables) if not way[1] or way[1][-1] == 0)


def change_all(tables: Tables, ways: list[Way], guess: Guess) -> Tables:
    """Return the tables with one guess at several places."""
    # The longest ways first: once an ARRAY has another type, there is no element in it to change.
    for way in sorted(ways, key=lambda way: -len(way[1])):
        tables = change(tables, way, guess)
    return tables


def replace_at(whole: Any, steps: tuple[Any, ...], guess: Guess) -> Guess:
    """Return a STRUCT or an ARRAY with another guess at a place in it."""
    if not steps:
        return guess
    part = replace_at(whole[steps[0]], steps[1:], guess)
    return [part] if isinstance(whole, list) else {**whole, steps[0]: part}
