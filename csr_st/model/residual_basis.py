"""The axes on which residual bits are spent, and how many of them each axis has.

What a head does not rebuild is larger in some directions than in others. A head that was trained
here has the axes of that, so that most bits go where most of it is; any other head has a random
rotation, in which all directions are alike. See `csr_st.residual`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from csr_st.model.settings import checksum, integer

if TYPE_CHECKING:
    from csr_st.head import SparseCSRHead

MAX_BITS = 4  # of an axis
MAX_SEED = 2**32 - 1
# Levels of b bits are the sums of the numbers in row b, each with a sign of its own: the best such
# for a Gaussian of unit variance. With 1 and 2 bits these are the levels of Max, Quantizing for
# minimum distortion (1960), table I.
WEIGHTS = np.array(
    [
        [0, 0, 0, 0],
        [0.7979, 0, 0, 0],
        [0.9816, 0.5288, 0, 0],
        [1.1579, 0.6069, 0.3010, 0],
        [1.3306, 0.6857, 0.3389, 0.1696],
    ],
    np.float32,
)
_LEFT = np.array([1, 0.3634, 0.1175, 0.0369, 0.0114])  # of the variance, with 0 to 4 bits


@lru_cache(maxsize=16)
def rotation(input_dim: int, seed: int) -> NDArray[np.float32]:
    """A random orthogonal (input_dim, input_dim) matrix; equal for a seed on any machine.

    It is the Q of the QR decomposition of Gaussian numbers in which the diagonal of R is positive
    (Mezzadri, arXiv math-ph/0609050). NumPy promises never to change the stream of a `RandomState`.
    """
    stream = np.random.RandomState(seed)  # whose stream a Generator does not promise
    gaussian = stream.standard_normal((input_dim, input_dim))
    orthogonal, triangular = np.linalg.qr(gaussian)
    matrix: NDArray[np.float32] = (orthogonal * np.sign(np.diag(triangular))).astype(np.float32)
    matrix.flags.writeable = False  # shared by all callers
    return matrix


@dataclass(frozen=True)
class ResidualBasis:
    """Orthogonal axes, and how far residuals extend along each; equal if the names are.

    Attributes:
        name: "seed " and a number for the random rotation of that seed; else a checksum of the
            arrays. Residual bits have it with them, as they mean nothing in another basis.
        input_dim: Width of the vectors.
        axes: (input_dim, input_dim) float32, a unit vector in each row; None for a rotation.
        deviations: (input_dim,) float32, the standard deviations along the axes, as multiples of
            any unit; None for a rotation.

    Raises:
        ValueError: If the name is neither, arrays do not fit it or are not finite, or a
            deviation is not above 0.
    """

    name: str
    input_dim: int
    axes: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)
    deviations: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_name(self.name)
        given = [np.shape(array) for array in (self.axes, self.deviations) if array is not None]
        expected = [] if self._seed is not None else [2 * (self.input_dim,), (self.input_dim,)]
        if given != expected:
            raise ValueError(
                f"the residual basis {self.name!r} has arrays of shape {given}, not {expected}"
            )
        for name in ("axes", "deviations"):
            array = getattr(self, name)
            if array is not None:
                if array.dtype.kind != "f" or not np.isfinite(array).all():
                    raise ValueError(f"the {name} of the residual basis must be finite floats")
                object.__setattr__(self, name, np.ascontiguousarray(array, np.float32))
        if self.deviations is not None and not (self.deviations > 0).all():
            raise ValueError("the deviations of the residual basis must be above 0")

    @classmethod
    def seeded(cls, input_dim: int, seed: int = 0) -> ResidualBasis:
        """A random rotation. Raises TypeError and ValueError if the seed is not in 0..2**32-1."""
        return cls(f"seed {integer('seed', seed, 0, MAX_SEED)}", input_dim)

    @classmethod
    def from_head(cls, head: SparseCSRHead) -> ResidualBasis:
        """The basis in which a head's residual bits are made."""
        if head.residual_axes is None or head.residual_deviations is None:
            return cls.seeded(head.input_dim, head.residual_seed)
        tensors = head.residual_axes, head.residual_deviations
        arrays = (tensor.detach().float().cpu().numpy() for tensor in tensors)
        return cls(str(head.residual_basis), head.input_dim, *arrays)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays by their names in files, which have `name` beside them."""
        found = {"residual_axes": self.axes, "residual_deviations": self.deviations}
        return {name: array for name, array in found.items() if array is not None}

    @classmethod
    def stored(cls, arrays: Mapping[str, NDArray[Any]], name: str, input_dim: int) -> ResidualBasis:
        """The basis of a file. Raises what the constructor does."""
        return cls(name, input_dim, arrays.get("residual_axes"), arrays.get("residual_deviations"))

    @property
    def _seed(self) -> int | None:
        return int(self.name[5:]) if self.name.startswith("seed ") else None

    def plan(self, n_signs: int) -> Plan:
        """How rows of this many signs are made; kept for the next call."""
        return _plan(self, n_signs)


def name_of(axes: NDArray[np.float32], deviations: NDArray[np.float32]) -> str:
    """The name of a basis with these arrays: their checksum."""
    data = np.concatenate([axes, deviations[None]]).astype("<f4").tobytes()
    return hashlib.sha256(data).hexdigest()[:16]


def check_name(name: Any) -> None:
    """Check the name of a basis, which may be from a file.

    Raises:
        ValueError: If it is not the name of one.
    """
    text = name if isinstance(name, str) else ""
    seed = text.removeprefix("seed ")
    if seed != text:
        good = seed.isascii() and seed.isdigit() and len(seed) <= 10 and int(seed) <= MAX_SEED
        good = good and str(int(seed)) == seed
    else:
        good = name is not None and checksum("basis", name) == name
    if not good:
        raise ValueError(f"basis={name!r} is neither 'seed N' nor a checksum")


@dataclass(frozen=True, eq=False)
class Plan:
    """How a row of signs stands for a vector: scale * (signs @ weights of each axis) @ axes.

    A row has planes of signs, one after another: the first sign of all m axes, the second of those
    axes that have one, which are the first ones, and so on.

    Attributes:
        axes: (m, input_dim) float32, those that have a sign, by falling number of signs.
        deviations: (m,) float32, what coordinates are divided by before they are rounded.
        weights: Of each plane, the weights of the signs, for coordinates that were not divided.
        sign_axes: (8 * bytes a row,) the number of each sign's axis; 0 at places that are not used.
        sign_weights: (8 * bytes a row,) float32, all weights; 0 at places that are not used.
    """

    axes: NDArray[np.float32]
    deviations: NDArray[np.float32]
    weights: tuple[NDArray[np.float32], ...]
    sign_axes: NDArray[np.int64]
    sign_weights: NDArray[np.float32]


@lru_cache(maxsize=8)  # by the name of the basis
def _plan(basis: ResidualBasis, n_signs: int) -> Plan:
    """Spend each sign where it removes most of the variance: reverse water-filling, in whole bits.

    Axes with equal numbers of signs are mixed by a random rotation, which makes their coordinates
    alike and nearly Gaussian, whatever the vectors are.
    """
    if basis.axes is None or basis.deviations is None:
        axes, deviations = rotation(basis.input_dim, basis._seed or 0).T, np.ones(basis.input_dim)
    else:
        axes, deviations = basis.axes.copy(), basis.deviations.astype(np.float64)
    # Only products of stored numbers, which are equal on any machine.
    removed = np.outer(_LEFT[:-1] - _LEFT[1:], deviations**2)  # by the 1st, 2nd ... sign of an axis
    chosen = np.argsort(-removed, axis=None, kind="stable")[:n_signs]
    signs = np.bincount(chosen % basis.input_dim, minlength=basis.input_dim)
    order = np.argsort(-signs, kind="stable")[: np.count_nonzero(signs)]
    axes, deviations, signs = axes[order], deviations[order], signs[order]
    for count in np.unique(signs) if basis.axes is not None else ():
        alike = signs == count
        axes[alike] = rotation(int(alike.sum()), 0) @ axes[alike]
        deviations[alike] = np.sqrt(np.mean(deviations[alike] ** 2))
    planes = []
    for number in range(signs.max()):
        some = slice(np.count_nonzero(signs > number))
        weights = WEIGHTS[signs[some], number] * deviations[some]
        planes.append(weights.astype(np.float32))
    unused = -n_signs % 8
    sign_axes = np.concatenate([*(np.arange(len(plane)) for plane in planes), [0] * unused])
    sign_weights = np.concatenate([*planes, [0] * unused]).astype(np.float32)
    arrays = np.ascontiguousarray(axes), deviations.astype(np.float32), tuple(planes)
    return Plan(*arrays, sign_axes.astype(np.int64), sign_weights)
