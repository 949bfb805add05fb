"""The floors of the package: who may import whom, and who may print."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import csr_st

PACKAGE = Path(csr_st.__file__).parent

# A lower floor never imports a higher one; floor -1 holds what serves every other.
FLOORS = {
    -1: [
        "_files",
        "_progress",
        "centred",
        "compiled",
        "head_files",
        "head_settings",
        "kernels",
        "parallel",
        "sparse_autograd",
        "top_k",
    ],
    0: ["head", "codes", "decoder", "losses", "config", "vectors", "images"],
    1: [
        "attaching",
        "code_store",
        "data",
        "embeddings",
        "encoding",
        "copies",
        "gathering",
        "metrics",
        "objective",
        "head_changes",
        "refit",
        "ranking",
        "registration",
        "search",
    ],
    2: [
        "training",
        "two_sided",
        "feeding",
        "checkpoint",
        "starting",
        "held_out",
        "reporting",
        "evaluation",
        "plots",
        "model_card",
        "search_time",
    ],
    3: ["hub", "hub_errors", "hub_files", "workflow", "convert", "finetune"],
    4: ["demo", "cli"],
}
FLOOR_OF = {room: floor for floor, rooms in FLOORS.items() for room in rooms}

FILES = sorted(PACKAGE.rglob("*.py"))
ROOMS = [path for path in FILES if path != PACKAGE / "__init__.py"]


def name(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def room_of(path: Path) -> str:
    """The file or folder directly below the package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(tree: ast.AST) -> Iterator[str]:
    """Every module that a file names in an import, at its top or within a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


COMMAND_LINE = [path for path in ROOMS if room_of(path) == "cli"]


def rooms_imported(path: Path) -> set[str]:
    modules = [module.split(".") for module in imported_modules(parse(path))]
    return {parts[1] for parts in modules if parts[0] == "csr_st" and len(parts) > 1}


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@pytest.mark.parametrize("path", ROOMS, ids=name)
def test_no_import_of_a_higher_floor(path):
    own = FLOOR_OF.get(room_of(path))
    assert own is not None, f"{name(path)} has no floor: give it one in FLOORS"
    for room in rooms_imported(path):
        assert room in FLOOR_OF, f"{name(path)} imports csr_st.{room}, which has no floor"
        assert FLOOR_OF[room] <= own, (
            f"{name(path)} (floor {own}) imports csr_st.{room} (floor {FLOOR_OF[room]})"
        )


def test_imports_are_seen_wherever_they_stand():
    tree = ast.parse(
        "import csr_st.a\ndef f():\n    from csr_st import b\n    from csr_st.c import d"
    )
    assert list(imported_modules(tree)) == ["csr_st.a", "csr_st.b", "csr_st.c.d"]
    assert rooms_imported(PACKAGE / "head.py") == {
        "centred",
        "head_files",
        "head_settings",
        "top_k",
    }
    assert "demo" in set().union(*map(rooms_imported, COMMAND_LINE))


@pytest.mark.parametrize(
    ("room", "stranger"),
    [("losses", "head"), ("search", "head"), ("training", "encoding"), ("head", "codes")],
)
def test_rooms_that_can_be_used_alone(room, stranger):
    """Losses take tensors, search takes codes, training takes vectors."""
    for path in ROOMS:
        if room_of(path) == room:
            assert stranger not in rooms_imported(path), name(path)


def prints(tree: ast.AST) -> Iterator[int]:
    """Lines that write to the terminal themselves."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in ("print", "pprint") or called.split(".")[-1] in ("echo", "secho"):
                yield node.lineno
        elif isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.stdout":
            yield node.lineno


@pytest.mark.parametrize("path", [path for path in FILES if path not in COMMAND_LINE], ids=name)
def test_only_the_command_line_prints(path):
    assert not list(prints(parse(path))), f"{name(path)} prints"


def test_printing_is_recognised():
    source = "print(1)\ntyper.echo(2)\nself.print(3)\nsys.stdout.write('4')\nclick.secho('5')"
    assert sorted(prints(ast.parse(source))) == [1, 2, 4, 5]
    assert any(list(prints(parse(path))) for path in COMMAND_LINE)


def unpicklings(tree: ast.AST) -> Iterator[int]:
    """Lines that could run code out of a file."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        library = called.split(".")[0]
        if called == "torch.load" and given.get("weights_only") == "True":
            continue
        if (
            called in ("torch.load", "eval", "exec")
            or library in ("pickle", "joblib", "dill", "cloudpickle", "marshal")
            or given.get("allow_pickle") == "True"
        ):
            yield node.lineno


@pytest.mark.parametrize("path", FILES, ids=name)
def test_nothing_unpickles(path):
    assert not list(unpicklings(parse(path))), f"{name(path)} unpickles"


def test_unpickling_is_recognised():
    source = """pickle.loads(a)
torch.load(a)
torch.load(a, weights_only=False)
torch.load(a, weights_only=True)
np.load(a, allow_pickle=True)
np.load(a, allow_pickle=False)
json.load(a)
"""
    assert sorted(unpicklings(ast.parse(source))) == [1, 2, 3, 5]
