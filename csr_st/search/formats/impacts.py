"""Values as whole numbers, for engines whose weights are counts."""

from __future__ import annotations

from csr_st.search.engines.rows import Row

MOST = 2**24  # beyond it, sums in float32 are no longer exact


def impacts(row: Row, scale: int) -> dict[str, int]:
    """A row's values times ``scale``, rounded, at least 1, by the names of its latents.

    Raises:
        ValueError: If one is above 2**24.
    """
    found = {str(latent): max(1, round(value * scale)) for latent, value in row.items()}
    for latent, weight in found.items():
        if weight > MOST:
            raise ValueError(
                f"latent {latent} has the value {row[int(latent)]}, {weight} at scale={scale}; at "
                f"most {MOST} is possible: pass a smaller scale"
            )
    return found
