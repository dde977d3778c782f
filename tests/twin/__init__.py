"""Mathematics that is independent of the package: a naive twin of every layer, and formulas in sixty digits."""
