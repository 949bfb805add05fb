"""The demonstration behind ``csr-st demo``: a real model, a real corpus, start to finish."""
