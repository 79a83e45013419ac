"""Files that are whole or not there, and that are checked before anything in them is used.

Also tables as text, for a terminal, and as HTML, for a notebook.
"""

import hashlib
import io
import json
import math
import os
import re
import secrets
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import is_dataclass
from enum import Enum
from fractions import Fraction
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from liftflow.doors import door
from liftflow.errors import DataError, InputError, OutputError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

try:
    import fcntl
except ImportError:  # Windows: no locks
    fcntl = None  # type: ignore[assignment]

_VERSION = 1  # of what is in the files
_CHUNK = 1 << 20  # bytes read at a time
_HEADER = re.compile(  # what numpy writes before plain numbers and texts, and nothing else
    rb"\x93NUMPY\x01\x00..\{'descr': '(\|b1|<[iuf]\d|<U\d{1,9})', "
    rb"'fortran_order': (True|False), 'shape': \(((?:\d{1,18}, ?)*(?:\d{1,18})?)\), \} *\n",
    re.DOTALL,
)


def as_path(path: object, name: str = "path") -> Path:
    """Return the path that a text or a path names, or say why not."""
    if not isinstance(path, str | Path) or not str(path) or "\0" in str(path):
        raise InputError(f"{name} must be str or Path, got {path!r}")
    return Path(path)


def make_folder(folder: Path) -> Path:
    """Make a folder, and those above it, where there is none yet."""
    with _writing(f"to the folder {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def _writing(where: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {where}: {error}") from error


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Write a file aside, under a name of its own, and put it in place when it is on the disk.

    Who is killed while writing, or loses power, leaves a whole file, the earlier one or this. What
    he left aside is removed by the next one who writes the same file; it is told from that of a
    living writer by its lock.
    """
    stem = f".liftflow-{zlib.crc32(os.fsencode(path.name)):08x}-"
    with _writing(str(path)):
        if path.exists() and not path.is_file():
            raise OSError("it is there, and is no file")
        _remove_stale(path.parent, stem)
        with _owned(lambda: path.parent / f"{stem}{secrets.token_hex(8)}.part", "xb") as file:
            aside = Path(file.name)
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
                if fcntl is None:  # Windows moves no open file
                    file.close()
                os.replace(aside, path)
            except BaseException:
                with suppress(OSError):
                    aside.unlink()
                raise


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the only process in a folder, after waiting for the one that is there now.

    The lock goes with the process that holds it, however that ends.
    """
    path = folder / ".lock"
    with ExitStack() as stack:
        with _writing(f"to the folder {folder}"):
            stack.enter_context(_owned(lambda: path, "ab"))
        try:
            yield
        finally:
            with suppress(OSError):  # the folder may be gone
                path.unlink()


@contextmanager
def _owned(name: Callable[[], Path], mode: str) -> Iterator[IO[bytes]]:
    """Open a file and lock it; anew where another process removed it in between."""
    while True:
        path = name()
        with open(path, mode, opener=_open_no_link) as file:
            if fcntl is not None:
                with suppress(OSError):  # a file system without locks
                    fcntl.flock(file, fcntl.LOCK_EX)
                if os.fstat(file.fileno()).st_nlink == 0:
                    continue
            yield file
            return


def _open_no_link(path: str, flags: int) -> int:
    # Neither is a planted link followed, nor a planted pipe waited for.
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0), 0o666)


def _remove_stale(folder: Path, stem: str) -> None:
    """Remove what writers left aside who live no more: nobody holds its lock."""
    if fcntl is None:
        return
    for name in os.listdir(folder):
        if name.startswith(stem) and name.endswith(".part"):
            stray = folder / name
            with suppress(OSError), open(stray, "rb", opener=_open_no_link) as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                stray.unlink()


def write_arrays(path: Path, kind: str, values: dict[str, Any]) -> None:
    """Write numbers and texts to an npz file, with their format and a digest of all of them."""
    arrays = {name: np.asarray(value) for name, value in values.items()}
    for name, array in arrays.items():
        if array.dtype.kind not in "biufU":
            raise InputError(f"{name} must hold numbers or a text, got dtype {array.dtype}")
    arrays["format"] = np.asarray(_format(kind))
    with replacing(path) as file:  # given a path, numpy would append .npz to the name
        np.savez(_Stream(file), **{**arrays, "digest": np.asarray(_digest(arrays))})  # type: ignore[arg-type]


class _Stream:
    """A file without a place in it: to seek, as zipfile does three times an array, flushes it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.read, self.write, self.flush = file.read, file.write, file.flush


def read_arrays(path: Path, kind: str) -> dict[str, Any]:
    """Read a file that :func:`write_arrays` wrote, once it is seen to be the same to the last bit.

    Nothing larger than the file is ever held. Arrays without axes come as numbers and texts.

    Raises
    ------
    DataError
        The file is not there, is damaged, or holds something else.
    """
    try:
        arrays = _members(path)
        _check_format(path, arrays.get("format", "in no format of liftflow"), kind)
        if str(arrays.pop("digest", None)) != _digest(arrays):
            raise ValueError("it was changed after it was written")
    except FileNotFoundError as error:
        raise DataError(f"{path} holds no {kind}: it is not there") from error
    except DataError:
        raise
    except Exception as error:  # what is wrong with a file, zipfile tells by errors of any class
        raise DataError(f"{path} holds no {kind}: {error}; remove it to start anew") from error
    del arrays["format"]
    return {name: array if array.ndim else array.item() for name, array in arrays.items()}


class Result:
    """What was found, to be written to a file and read back, without pickle."""

    @door
    def save(self, path: str | Path) -> None:
        """Write it to a file.

        Raises
        ------
        InputError
            Not a path.
        OutputError
            The file cannot be written.
        """
        self._write(as_path(path))

    @classmethod
    @door
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises
        ------
        InputError
            Not a path.
        DataError
            The file is not there, is damaged, was changed since, or holds something else.
        """
        return cls._read(as_path(path))

    def _write(self, path: Path) -> None:
        raise NotImplementedError

    @classmethod
    def _read(cls, path: Path) -> Self:
        raise NotImplementedError


class Archived(Result):
    """A result whose numbers and texts go to an npz file, by their names."""

    _kind: ClassVar[str]
    """What the file is said to hold."""

    def _values(self) -> dict[str, Any]:
        """All that is written."""
        raise NotImplementedError

    @classmethod
    def _made(cls, values: dict[str, Any]) -> Self:
        """Make one of what was written; a ``KeyError`` or ``ValueError`` says that it is not."""
        raise NotImplementedError

    def _write(self, path: Path) -> None:
        write_arrays(path, self._kind, self._values())

    @classmethod
    def _read(cls, path: Path) -> Self:
        values = read_arrays(path, cls._kind)
        try:
            return cls._made(values)
        except KeyError as error:
            raise DataError(f"{path} holds no {cls._kind}: it has no {error}") from error
        except ValueError as error:
            raise DataError(f"{path} holds no {cls._kind}: {error}") from error


class Stored(Result):
    """A dataclass of numbers, texts, tuples and a few classes of ours, written as JSON.

    Arrays come back as lists.
    """

    _parts: ClassVar[tuple[type, ...]] = ()
    """Classes of what is in it."""

    def _write(self, path: Path) -> None:
        own = {name: plain(value, named=True) for name, value in vars(self).items()}
        own = {"format": _format(type(self).__name__), **own}
        with replacing(path) as file:
            file.write(json.dumps({**own, "digest": _text_digest(own)}, indent=1).encode())

    @classmethod
    def _read(cls, path: Path) -> Self:
        parts = {part.__name__: part for part in cls._parts}

        def made(value: dict[str, Any]) -> object:
            if value.keys() != {"class", "of"}:
                return value
            kind, of = parts[value["class"]], value["of"]
            if not isinstance(of, dict):
                return kind(of)
            return kind(**{name: _frozen(item) for name, item in of.items()})

        try:
            text = read_text(path, 1 << 30)
            there = json.loads(text)
            _check_format(path, there.get("format", "in no format of liftflow"), cls.__name__)
            if there.pop("digest", None) != _text_digest(there):
                raise ValueError("it was changed after it was written")
            values = json.loads(text, object_hook=made)
            return cls(**{name: _frozen(values[name]) for name in there if name != "format"})
        except DataError:
            raise
        except FileNotFoundError as error:
            raise DataError(f"{path} holds no {cls.__name__}: it is not there") from error
        except RecursionError as error:
            raise DataError(f"{path} holds no {cls.__name__}: it is nested too deeply") from error
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise DataError(f"{path} holds no {cls.__name__}: {error}") from error


def plain(value: object, named: bool = False) -> object:
    """Return a value in the types of JSON: arrays as lists, infinity and NaN as None.

    Or, to be read back, with the classes in it by their names, and all floats.
    """
    match value:
        case np.ndarray() | np.generic():
            return plain(value.tolist(), named)
        case Mapping():
            return {str(key): plain(item, named) for key, item in value.items()}
        case list() | tuple():
            return [plain(item, named) for item in value]
        case _ if named and is_dataclass(value):
            return {"class": type(value).__name__, "of": plain(vars(value), named)}
        case Fraction() | Enum() if named:
            return {"class": type(value).__name__, "of": str(value)}
        case float() if not (named or math.isfinite(value)):
            return None
        case None | bool() | int() | float():
            return value
    return str(value)


def _frozen(value: object) -> object:
    """Return lists as tuples, which dataclasses hold."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def read_text(path: Path, limit: int) -> str:
    """Read a small file of at most ``limit`` bytes.

    Raises
    ------
    OSError, ValueError
        The file cannot be read, is too large, or is no text.
    """
    _size(path, limit)
    return path.read_text(encoding="utf-8")


def _format(kind: str) -> str:
    return f"liftflow {kind} {_VERSION}"


def _check_format(path: Path, written: object, kind: str) -> None:
    """Refuse a file in another format; one of a newer version is not to be thrown away."""
    name, _, version = str(written).rpartition(" ")
    if name == f"liftflow {kind}" and version.isdecimal() and int(version) > _VERSION:
        raise DataError(
            f"{path} was written by a newer version of liftflow: it is in the format {written}, "
            f"and this version reads {_format(kind)}; upgrade liftflow"
        )
    if written != _format(kind):
        raise ValueError(f"it is {written}, and not {_format(kind)}")


def _text_digest(values: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(values).encode(), digest_size=16).hexdigest()


def _digest(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _size(path: Path, limit: float = math.inf) -> int:
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
        raise ValueError("it is no file")
    if status.st_size > limit:
        raise ValueError(f"it has {status.st_size} bytes, {limit} at most were expected")
    return status.st_size


def _members(path: Path) -> dict[str, np.ndarray]:
    size = _size(path)
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > size:
            raise ValueError("it declares more than there is in it")
        names = [member.filename for member in members]
        if len(set(names)) < len(names):
            raise ValueError("it holds two arrays of one name")
        return {m.filename.removesuffix(".npy"): _array(archive, m) for m in members}


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
        raise ValueError(f"{member.filename} is compressed or encrypted")
    buffer, filled = bytearray(member.file_size), 0
    with archive.open(member) as file:
        while chunk := file.read(_CHUNK):
            buffer[filled : filled + len(chunk)] = chunk
            filled += len(chunk)
    header = _HEADER.match(buffer)
    if header is None:
        raise ValueError(f"{member.filename} is no array of numbers or text")
    dtype = np.dtype(header[1].decode())
    shape = tuple(int(length) for length in header[3].replace(b",", b" ").split())
    count = math.prod(shape)
    if len(buffer) != header.end() + count * dtype.itemsize:
        raise ValueError(f"{member.filename} has not the size that its shape {shape} tells")
    if count * dtype.itemsize == 0:
        return np.zeros(shape, dtype)
    numbers = np.frombuffer(buffer, dtype, count, header.end())
    return numbers.reshape(shape[::-1]).T if header[2] == b"True" else numbers.reshape(shape)


def _rendered(table: "Table", width: int) -> "Console":
    from rich.console import Console

    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(table)
    return console


def as_text(table: "Table", width: int = 88) -> str:
    """Render a table as text, so many characters wide."""
    return _rendered(table, width).export_text(styles=False).rstrip()


def as_html(table: "Table", width: int = 88) -> str:
    """Render a table for a notebook, so many characters wide."""
    page = '<pre style="line-height: 1.2; overflow-x: auto">{code}</pre>'
    return _rendered(table, width).export_html(inline_styles=True, code_format=page)


class Tabled:
    """What is shown as a table."""

    _width: ClassVar[int] = 88

    def table(self) -> "Table":
        """Lay the main figures out."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        """Render the table for a notebook."""
        return as_html(self.table(), self._width)

    def print(self) -> None:
        """Print the table."""
        from rich.console import Console

        console = Console()
        console.width = console.width or 80  # COLUMNS=0 would show nothing
        console.print(self.table())
