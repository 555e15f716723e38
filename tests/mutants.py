"""The mutants of a module: its functions with one comparison, operator, condition or whole number changed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType

OTHERS: dict[type[ast.AST], tuple[type[ast.AST], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,), ast.And: (ast.Or,), ast.Or: (ast.And,),
    ast.Add: (ast.Sub,), ast.Sub: (ast.Add,), ast.Mult: (ast.FloorDiv,), ast.FloorDiv: (ast.Mult,),
    ast.Div: (ast.Mult,), ast.Mod: (ast.FloorDiv,), ast.BitOr: (ast.BitAnd,), ast.BitAnd: (ast.BitOr,),
    ast.LShift: (ast.RShift,), ast.RShift: (ast.LShift,),
}  # fmt: skip
"""What each operator is replaced with."""

# Characters shown before and after a change.
CONTEXT = 40
NOT_CODE = {"decorator_list", "args", "returns", "annotation", "type_params"}


@dataclass(frozen=True)
class Mutant:
    """A changed statement in the function *name*, and the function's code with it."""

    name: str
    line: int
    before: str
    after: str
    code: CodeType


def mutants(source: str, path: str) -> Iterator[Mutant]:
    """Yield all mutants of a module, in the order of its functions."""
    tree = ast.parse(source)
    for name, function in _functions(tree):
        for node, statement in _code(function, function):
            for owner, key, value in _changes(node):
                before, old = _line(statement), _put(owner, key, value)
                before, after = _difference(before, _line(statement))
                code = _find(compile(ast.fix_missing_locations(tree), path, "exec"), name)
                _put(owner, key, old)
                yield Mutant(name, getattr(statement, "lineno", function.lineno), before, after, code)


def _line(statement: ast.AST) -> str:
    """Return a statement on one line, without those within it."""
    return ast.unparse(statement).strip().partition("\n")[0]


def _difference(before: str, after: str) -> tuple[str, str]:
    """Return what differs, with the words around it."""
    same = _alike(before, after)
    same_end = _alike(before[same:][::-1], after[same:][::-1])
    start = before.rfind(" ", 0, max(0, same - CONTEXT)) + 1
    first, second = (text.find(" ", len(text) - same_end + CONTEXT) for text in (before, after))
    return before[start : first if first > 0 else None], after[start : second if second > 0 else None]


def _alike(one: str, other: str) -> int:
    """Return how many characters two texts begin with in common."""
    pairs = zip(one, other, strict=False)
    return next((at for at, pair in enumerate(pairs) if pair[0] != pair[1]), min(len(one), len(other)))


def _functions(tree: ast.Module | ast.ClassDef, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    """Yield functions and methods with their qualified names; what is nested in one belongs to it."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield prefix + node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from _functions(node, f"{prefix}{node.name}.")


def _code(node: ast.AST, statement: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    """Yield the nodes that are run when the function is called, each with the statement that it is part of."""
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if field not in NOT_CODE and isinstance(child, ast.AST):
                inner = child if isinstance(child, ast.stmt | ast.match_case) else statement
                yield child, inner
                yield from _code(child, inner)


def _changes(node: ast.AST) -> Iterator[tuple[object, str | int, object]]:
    """Yield the changes to one node: an object, its field or index, and the new value."""
    match node:
        case ast.Compare(ops=ops):
            yield from ((ops, at, new()) for at, op in enumerate(ops) for new in OTHERS[type(op)])
        case ast.BinOp(op=op) | ast.AugAssign(op=op):
            yield from ((node, "op", new()) for new in OTHERS.get(type(op), ()))
        case ast.BoolOp(op=op, values=values):
            yield from ((node, "op", new()) for new in OTHERS[type(op)])
            yield from ((values, at, ast.Constant(isinstance(op, ast.And))) for at in range(len(values)))
        case ast.Constant(value=int() as number) if not isinstance(number, bool):
            yield node, "value", number + 1
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield node, "operand", _negated(operand)
        case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test) if not _changes_itself(test):
            yield node, "test", _negated(test)
        case ast.comprehension(ifs=ifs):
            yield from ((ifs, at, _negated(test)) for at, test in enumerate(ifs) if not _changes_itself(test))
        case ast.match_case(guard=ast.expr() as guard) if not _changes_itself(guard):
            yield node, "guard", _negated(guard)


def _negated(test: ast.expr) -> ast.expr:
    return ast.UnaryOp(ast.Not(), test)


def _changes_itself(test: ast.expr) -> bool:
    """Return whether a condition's negation is among the changes to its own node."""
    return (isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)) or (
        isinstance(test, ast.Compare) and len(test.ops) == 1
    )


def _put(owner: object, key: str | int, value: object) -> object:
    """Set a field or an item; return what it was."""
    if isinstance(owner, list):
        old, owner[key] = owner[key], value
    else:
        old = getattr(owner, key)
        setattr(owner, key, value)
    return old


def _find(code: CodeType, name: str) -> CodeType:
    """Return the code object with a qualified name."""
    todo = [code]
    for one in todo:
        if one.co_qualname == name:
            return one
        todo += [const for const in one.co_consts if isinstance(const, CodeType)]
    raise LookupError(name)
